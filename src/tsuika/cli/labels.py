"""Results for people: what the keys and values of a command's JSON are called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from tsuika.cli import layout
from tsuika.cli.language import local
from tsuika.core.texts import Text, _, limited, listed

LABELS: Final[Mapping[str, Text]] = {
    "activate_output": _("Activation after the last layer"),
    "activation_func": _("Activation function"),
    "adapter": _("Adapter"),
    "alpha": _("Alpha (times used)"),
    "artifacts": _("Results"),
    "autov2": _("AutoV2 hash"),
    "autov3": _("AutoV3 hash"),
    "base": _("Base model"),
    "base_name": _("Base model"),
    "best_step": _("Best step"),
    "buckets": _("Buckets"),
    "cache": _("Cache"),
    "cache_free_gib": _("Free disk space of the cache (GiB)"),
    "captions": _("Captions"),
    "cfg": _("CFG scale"),
    "clip_skip": _("CLIP skip"),
    "convolutions": _("Convolution layers"),
    "cores": _("CPU cores"),
    "date": _("Date"),
    "device": _("Device"),
    "device_memory_gib": _("Memory of the device, free and in all (GiB)"),
    "devices": _("Devices"),
    "disk_free_gib": _("Free disk space (GiB)"),
    "drawn_with": _("Drawn with"),
    "dtype": _("Precision"),
    "embedded_base": _("Embedded base model"),
    "energy_held": _("Share of the change that is kept"),
    "error_of_rank": _("Error of the smaller rank"),
    "family": _("Family"),
    "family_from": _("Family known from"),
    "few_steps": _("Few-step model"),
    "finished": _("Finished"),
    "format": _("Format"),
    "from": _("From"),
    "inpaints": _("For inpainting"),
    "into": _("Merged into"),
    "is_layer_norm": _("Layer normalization"),
    "kind": _("Kind"),
    "largest_relative_error": _("Largest relative difference after reading it back"),
    "latent_channels": _("Latent channels"),
    "latent_scale": _("Latent scale"),
    "layer_structure": _("Layer structure"),
    "layers": _("Layers"),
    "layout": _("Layout"),
    "left_out": _("Left out"),
    "libraries": _("Libraries"),
    "locale": _("Locale"),
    "lora_hashes": _("Hashes of LoRAs"),
    "memory_free_gib": _("Free memory (GiB)"),
    "memory_gib": _("Memory (GiB)"),
    "merged": _("Merged"),
    "metadata": _("Metadata"),
    "method": _("Method"),
    "missing": _("Missing"),
    "model": _("Base model"),
    "model_hash": _("Hash of the base model"),
    "name": _("Name"),
    "negative": _("Negative prompt"),
    "norms": _("Lengths of the vectors"),
    "out": _("File"),
    "phase": _("At work on"),
    "pictures": _("Images"),
    "precision": _("Precision"),
    "prediction": _("Prediction"),
    "prompt": _("Prompt"),
    "provenance": _("Training, by what the file says"),
    "provenance_error": _("What it says of its training cannot be read"),
    "python": _("Python"),
    "rank": _("Rank (times used)"),
    "ranks": _("Ranks"),
    "recipe": _("Recipe"),
    "resolution": _("Training size"),
    "run": _("Run folder"),
    "rng": _("Random numbers"),
    "sampler": _("Sampler"),
    "seed": _("Seed"),
    "sha256": _("SHA-256"),
    "size_px": _("Size"),
    "state": _("State"),
    "step": _("Step"),
    "steps": _("Steps"),
    "steps_done": _("Steps done"),
    "stopped_by": _("Stopped by"),
    "system": _("System"),
    "targets": _("Layers by part"),
    "tensors": _("Tensors"),
    "text_encoders": _("Text encoders"),
    "ti_hashes": _("Hashes of embeddings"),
    "title": _("Model"),
    "too_faint_for_dtype": _("Layers too small for this precision"),
    "trigger": _("Trigger word"),
    "unread_keys": _("Unknown keys"),
    "use": _("What to do"),
    "vae": _("VAE"),
    "vae_hash": _("Hash of the VAE"),
    "vectors": _("Vectors per word"),
    "version": _("Version"),
    "weights_changed": _("Changed weights"),
    "weight_decay_over_run": _("Weight decay over the training run"),
    "why_few_steps": _("Few steps known from"),
    "why_prediction": _("Prediction known from"),
    "widths": _("Widths"),
    "words": _("Words"),
    "zero_terminal_snr": _("Zero terminal SNR"),
}
_KINDS: Final[Mapping[str, Text]] = {
    "base model": _("Base model"),
    "other model": _("Model of another kind"),
    "run": _("Training run"),
    "text encoder": _("Text encoder"),
    "unet": _("UNet"),
    "vae": _("VAE"),
    "vae_hash": _("Hash of the VAE"),
}
_STATES: Final[Mapping[str, Text]] = {
    "running": _("running"),
    "stopped": _("stopped; it can be resumed"),
    "finished": _("finished"),
}
_STOPPED_BY: Final[Mapping[str, Text]] = {
    "steps": _("the number of steps"),
    "guard": _("the overfitting guard"),
    "user": _("you"),
    "diverged": _("divergence"),
}
# By key: the names of its values.
_NAMED: Final[Mapping[str, Mapping[str, Text]]] = {"kind": _KINDS, "state": _STATES, "stopped_by": _STOPPED_BY}
_LONG: Final = 60  # a longer list has a line for each item


def method(name: str) -> Text:
    """A method's name for people."""
    from tsuika.methods import title

    found = title(name)
    return found if isinstance(found, Text) else Text(name)


def family(name: str) -> str:
    """A family's name for people."""
    from tsuika.families import FAMILIES

    return {row.name: row.facts.short_title for row in FAMILIES}.get(name, name)


def lines(value: Mapping[str, Any]) -> str:
    """A result for people, a line for each key that has a value."""
    return "\n".join(_lines(value, ""))


def _lines(value: Mapping[str, Any], indent: str, *, own: bool = False) -> Iterator[str]:
    """`own`: the keys are the file's, not ours."""
    for key, item in value.items():
        label = key if own else local(LABELS.get(key, key))
        item = getattr(item, "words", item)
        if item is None or item in ("", [], {}):
            continue
        if isinstance(item, Mapping):
            yield f"{indent}{label}:"
            yield from _lines(item, f"{indent}  ", own=True)
        elif isinstance(item, str) and "\n" in item:
            yield item
        elif isinstance(item, (list, tuple)) and sum(map(len, map(str, item))) > _LONG:
            yield f"{indent}{label}:"
            yield from (f"{indent}  {local(one) if isinstance(one, Text) else one}" for one in item)
        else:
            # Of what a file says, people see the beginning; JSON has all of it.
            shown = limited(_value(key, item)) if own else _value(key, item)
            text = local(_("{label}: {value}", label=label, value=shown))
            yield f"{indent}{text}" if own else layout.wrap(text, first=indent, rest=f"{indent}  ")


def _value(key: str, item: Any) -> Text | str:
    if isinstance(item, bool):
        return _("yes") if item else _("no")
    if isinstance(item, (list, tuple)):
        return listed(item)
    if key == "largest_relative_error":
        return f"{item:.1e}"
    if key in ("kind", "method") and item not in _KINDS:
        return item if isinstance(item, Text) else method(str(item))
    if key == "family":
        return family(str(item))
    named = _NAMED.get(key, {})
    return named.get(item) or (item if isinstance(item, Text) else str(item))
