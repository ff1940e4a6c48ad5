"""The recipe's sections that are the same for every method: base model, images, training, previews, output. Each field
carries its help (text, unit, everyday or expert). Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, count
from pathlib import PurePath
from typing import Any, Final, Literal

from pydantic import ValidationError, ValidationInfo, field_validator

from tsuika.core import names
from tsuika.core.outside import is_address
from tsuika.core.section import Place, Section, Words, everyday, expert, reason
from tsuika.core.texts import _
from tsuika.core.types import Overrides, Prediction

NONE = "none"  # in place of a folder: not even one that lies among the images
AUTO = "auto"  # in place of a folder: what lies among the images


class Base(Section):
    """The model that is trained on."""

    model: Place = everyday(
        "embedded",
        "Base model: `embedded`, a diffusers folder, a .safetensors or .ckpt file, or a Hugging Face model id",
    )
    tokenizer: Place = expert("", "Folder with the tokenizer files, for a single-file base model without network")
    vae: Place = everyday("builtin", "VAE: `builtin`, `builtin:NAME`, a file, a folder or a Hugging Face model id")
    prediction: Literal["auto", "epsilon", "v", "flow"] = expert(
        "auto", "What the base model predicts, where its files do not say or are wrong; `auto` = what they say"
    )
    zero_terminal_snr: Literal["auto", "on", "off"] = expert(
        "auto",
        "Whether the noise schedule of the base model ends in pure noise (zero terminal SNR); `auto` = what it says",
    )
    clip_skip: int = expert(
        1,
        "Layer of the text encoder that is used, counted from the last (Stable Diffusion 1.x); 1 = the last",
        ge=1,
        le=12,
    )
    artifacts: tuple[str, ...] = expert(
        (),
        "Finished results applied to the base model before training, as FILE or FILE:STRENGTH; they stay as they are",
    )
    quantize: Literal["none", "int8", "fp8", "nf4"] = expert(
        "none",
        "Fewer bits for the frozen weights of attention and feed-forward layers while training (torchao): `int8` and `fp8` take half "
        "of bf16's memory, `nf4` about a quarter; what is written is for the base model as it is",
    )

    @property
    def overrides(self) -> Overrides:
        """What is said about the model in place of its files."""
        return overrides(self.prediction, self.zero_terminal_snr, self.clip_skip)


def overrides(prediction: str, zero_terminal_snr: str, clip_skip: int) -> Overrides:
    """Of the words of people: `auto`, `epsilon`, `v` or `flow`; `auto`, `on` or `off`; the layer from the last."""
    kinds: dict[str, Prediction] = {"epsilon": "epsilon", "v": "v_prediction", "flow": "flow"}
    return Overrides(kinds.get(prediction), {"on": True, "off": False}.get(zero_terminal_snr), clip_skip)


# What each of several folders of images may say for itself.
SET_KEYS: Final = (
    *("images", "trigger", "class_word", "template", "reg_images", "masks", "alpha_mask", "mask_outside"),
    *("size_px", "min_size_px", "repeats", "weight", "flip", "crop", "rotate_deg", "colour"),
    *("caption_prefix", "caption_suffix", "caption_lines", "caption_wildcards", "caption_dropout"),
    *("shuffle_tags", "keep_tokens", "keep_separator", "secondary_separator", "tag_dropout"),
)


class Data(Section):
    """The images and how they are prepared."""

    images: Place = everyday("", "Folder of training images, searched recursively; never changed")
    trigger: Words = everyday("", "Trigger word: the new word that calls up what was learned")
    class_word: Words = everyday("", "Class word, what kind of thing it is: `dog`, `character`, `style`")
    template: Literal["none", "object", "style"] = expert(
        "none",
        "Captions of images without a caption file: the trigger word alone, or varied sentences for an object or a style",
    )
    reg_images: Place = everyday(
        "",
        "Folder of regularization images (the class without the subject), for prior preservation; empty = a folder "
        "`reg` among the images, if there is one; `none` = none",
    )
    reg_generate: int = everyday(
        0,
        "Number of regularization images to generate with the base model where no folder is given; 0 = no prior preservation",
        ge=0,
        le=10_000,
    )
    reg_weight: float = expert(1.0, "Weight of regularization images in the loss", ge=0, le=10)
    masks: Place = everyday(
        "",
        "Folder of masks, named as the images are: white is learned, black is not; `auto` = those among the images "
        "(`NAME-mask.png`, a folder `masks`); empty = none",
    )
    alpha_mask: bool = expert(
        False, "Transparency as mask, for images without a mask file: what is transparent is not learned"
    )
    mask_outside: float = expert(
        0.0, "Weight in the loss of what a mask leaves out, against 1 for what it shows; 0 = nothing of it", ge=0, le=1
    )
    size_px: int = everyday(
        0, "Training size: side of a square with the same area; 0 = the base model's own", "px", ge=0, le=4096
    )
    min_size_px: int = expert(0, "Smallest image that is used; 0 = half the training size", "px", ge=0)
    buckets: bool = expert(
        True, "Buckets: train on each image near its own aspect ratio instead of cropping it to a square"
    )
    weight: float = expert(1.0, "Weight of the images in the loss; of use with several sets", ge=0, le=100)
    repeats: int = expert(1, "Repeats of each image in an epoch (times the number of a kohya folder)", ge=1, le=10_000)
    caption_lines: Literal["alternatives", "first", "join"] = expert(
        "alternatives",
        "Several lines in a caption file: `alternatives`, one of which is drawn at each step (as OneTrainer does, "
        "and kohya with enable_wildcard), only the `first` (kohya without it), or one caption (`join`)",
    )
    caption_prefix: str = expert("", "Words in front of every caption, followed by a space")
    caption_suffix: str = expert("", "Words behind every caption, after a space")
    caption_wildcards: bool = expert(
        False,
        "Wildcards: of a choice in braces, with bars between, one is drawn at each step (as kohya with enable_wildcard)",
    )
    caption_dropout: float = expert(
        0.05, "Caption dropout: share of steps with an empty caption, which keeps guidance (CFG) working", ge=0, le=1
    )
    shuffle_tags: bool = expert(False, "Shuffle comma-separated tags")
    keep_tokens: int = expert(1, "Number of tags at the front that are never shuffled or left out", ge=0)
    keep_separator: str = expert(
        "",
        "What stands in a caption between the tags that are kept and the others (kohya's keep_tokens_separator), and once more "
        "before tags that are kept at the end; in captions without it `keep_tokens` counts",
    )
    secondary_separator: str = expert(
        "",
        "What stands in a caption between tags that are shuffled and left out together (kohya's setting of this name, such as "
        "`;;;`); the model reads a comma there",
    )
    tag_dropout: float = expert(
        0.0,
        "Tag dropout: share of comma-separated tags left out at each step; never one with the trigger word",
        ge=0,
        lt=1,
    )
    flip: bool = everyday(False, "Mirror half of the augmented images; leave it off for text and one-sided things")
    crop: float = expert(1.0, "Random crop: smallest share of the side that is kept; 1 = no crop", gt=0.3, le=1)
    rotate_deg: float = expert(0.0, "Random rotation, up to this angle either way", "°", ge=0, le=45)
    colour: float = expert(0.0, "Random brightness, contrast and saturation, up to this share", ge=0, le=0.5)
    variants: int = expert(8, "Augmented variants that are encoded and cached for each image", ge=1, le=64)
    cache: bool = expert(True, "Keep encoded latents on disk for later training runs")
    sets: tuple[Mapping[str, Any], ...] = expert(
        (),
        "Several folders of images in place of one, a table each (`[[data.sets]]` in a recipe) with `images` and whatever else "
        "it does not share with `data`: trigger, class_word, repeats, weight, size_px, reg_images, masks, caption_prefix, …",
    )

    @field_validator("masks")
    @classmethod
    def _none_is_nothing(cls, value: str) -> str:
        return "" if value == NONE else value

    @field_validator("mask_outside")
    @classmethod
    def _masks_are_named(cls, value: float, info: ValidationInfo) -> float:
        if value and not (info.data.get("masks") or info.data.get("alpha_mask")):
            raise ValueError(_("It means nothing without masks: set data.masks or data.alpha_mask."))
        return value

    @field_validator("secondary_separator")
    @classmethod
    def _parts_less_than_a_comma(cls, value: str, info: ValidationInfo) -> str:
        if value and (not value.strip() or "," in value or value == info.data.get("keep_separator")):
            raise ValueError(_("It must differ from a comma, from a space and from data.keep_separator."))
        return value

    @field_validator("sets", mode="before")
    @classmethod
    def _are_tables(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, Mapping) for one in value):
            raise ValueError(_("Give a table for each set: [[data.sets]] in a recipe file."))
        return tuple(dict(one) for one in value)

    @field_validator("sets")
    @classmethod
    def _are_sets(cls, value: tuple[Mapping[str, Any], ...], info: ValidationInfo) -> tuple[Mapping[str, Any], ...]:
        if value and info.data.get("images"):
            raise ValueError(_("data.images and data.sets exclude each other: make the folder one of the sets."))
        for number, one in enumerate(value, 1):
            if unknown := [key for key in one if key not in SET_KEYS]:
                raise ValueError(_("Set {number} has no setting `{key}`.", number=number, key=unknown[0]))
            if not one.get("images"):
                raise ValueError(_("Set {number} does not say where its images are.", number=number))
            try:
                cls.model_validate(_joined(info.data, one))
            except ValidationError as error:
                first = error.errors()[0]
                about = {"number": number, "key": ".".join(map(str, first["loc"])), "why": reason(first)}
                raise ValueError(_("Set {number}, {key}: {why}", **about)) from None
        return value

    def each(self) -> dict[str, Data]:
        """Every set with all of its settings, by a name for people (its folder's); without sets this, by no name."""
        if not self.sets:
            return {"": self}
        found: dict[str, Data] = {}
        for one in self.sets:
            name = PurePath(one["images"]).name or "images"
            found[next(free for free in _numbered(name) if free not in found)] = Data.model_validate(
                _joined(self.model_dump(), one)
            )
        return found if len(found) > 1 else {"": next(iter(found.values()))}

    @property
    def first(self) -> Data:
        """The first set: what speaks of one subject takes this one."""
        return next(iter(self.each().values()))

    @property
    def folders(self) -> tuple[str, ...]:
        """Every folder of images."""
        return tuple(one.images for one in self.each().values() if one.images)

    @property
    def triggers(self) -> tuple[str, ...]:
        """Every trigger word, once."""
        return tuple(dict.fromkeys(one.trigger.strip() for one in self.each().values() if one.trigger.strip()))

    @property
    def masks_images(self) -> bool:
        """Whether parts of images are to be left out of the loss."""
        return bool(self.masks) or self.alpha_mask

    @property
    def regularizes(self) -> bool:
        """Whether it asks for regularization images; a folder among the images apart, which nobody has looked for yet."""
        return self.reg_generate > 0 or any(one.reg_folder for one in self.each().values())

    @property
    def reg_folder(self) -> str:
        """The folder of regularization images; empty where it names none."""
        return "" if self.reg_images == NONE else self.reg_images


def _joined(shared: Mapping[str, Any], one: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a set: its own, then those that all share."""
    found = {**shared, **one, "sets": ()}
    # A set without masks has nothing outside of them, whatever the others have.
    if not (found.get("masks") not in ("", NONE) or found.get("alpha_mask")) and "mask_outside" not in one:
        found["mask_outside"] = 0.0
    return found


def _numbered(name: str) -> Iterator[str]:
    """The name, and with a number behind it."""
    return chain([name], (f"{name}-{number}" for number in count(2)))


class Train(Section):
    """The training loop."""

    steps: int = everyday(800, "Training steps (updates by the optimizer)", ge=1, le=1_000_000)
    batch_size: int = everyday(4, "Batch size: images per forward pass, over all processes", ge=1, le=4096)
    accumulate: int = expert(
        1, "Gradient accumulation, batches per step: a step sees batch_size x accumulate images", ge=1, le=256
    )
    learning_rate: float = everyday(1e-4, "Learning rate: how much one step changes", gt=0, le=10)
    optimizer: Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedule-free", "riemannian"] = expert(
        "adamw",
        "Optimizer; `riemannian` turns vectors without changing their length, for new words only; `schedule-free` keeps its"
        " rate high: the loss is as low, but drawings are reported to be worse (arXiv:2510.19376)",
    )
    optimizer_class: str = expert(
        "",
        "Optimizer of an installed package, `package.module:Class` such as `pytorch_optimizer:CAME`, in place of `optimizer`",
    )
    optimizer_args: tuple[str, ...] = expert(
        (), "Further settings of the optimizer, `name=value` such as `betas=0.9,0.999` or `d_coef=2`"
    )
    schedule: Literal["cosine", "constant", "linear"] = expert(
        "cosine",
        "Learning-rate schedule after warm-up; if the guard searches for the best step, it holds for the training after that",
    )
    warmup: float = expert(0.05, "Warm-up, as a share of the steps", ge=0, lt=1)
    weight_decay: float = expert(0.0, "Decoupled weight decay", ge=0)
    clip_norm: float = expert(1.0, "Gradient clipping: largest gradient norm; 0 = no clipping", ge=0)
    ema: float = expert(0.99, "Exponential moving average (EMA) of the weights; 0 = off", ge=0, lt=1)
    min_snr_gamma: float = expert(5.0, "Min-SNR loss weighting (Hang et al. 2023); 0 = off", ge=0)
    loss: Literal["l2", "huber", "smooth-l1"] = expert(
        "l2", "Loss: `huber` and `smooth-l1` count large differences less, in the forms of kohya's sd-scripts"
    )
    huber_schedule: Literal["snr", "exponential", "constant"] = expert(
        "snr", "How the threshold of `huber` and `smooth-l1` falls with the noise"
    )
    huber_c: float = expert(0.1, "Threshold of `huber` and `smooth-l1` at the most noise", gt=0, le=1)
    noise_offset: float = expert(0.0, "Noise offset: a constant per channel that is added to the noise", ge=0, le=1)
    ip_noise_gamma: float = expert(
        0.0,
        "Input perturbation: noise on the noise that is put on images, of which the model is not to know (Ning et al. 2023; "
        "`ip_noise_gamma` of kohya, there about 0.1); 0 = none",
        ge=0,
        le=1,
    )
    multires_noise: int = expert(
        0,
        "Pyramid noise: so many levels of noise at lower resolutions are added (multires_noise_iterations); 0 = off",
        ge=0,
        le=16,
    )
    multires_noise_discount: float = expert(
        0.3, "Strength of each level of pyramid noise by the one before", ge=0, le=1
    )
    timesteps: Literal["auto", "uniform", "logit-normal"] = expert(
        "auto", "How timesteps are spread (each batch evenly over it); `auto` = uniform, or logit-normal for a flow"
    )
    min_timestep: int = expert(0, "Least timestep that is trained, of 1000", ge=0, le=999)
    max_timestep: int = expert(1000, "Timesteps are trained below this one, of 1000", ge=1, le=1000)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = expert(
        "auto", "Precision of the base model's computations; trained weights stay fp32 unless the method says otherwise"
    )
    gradient_checkpointing: bool = expert(False, "Gradient checkpointing: a third more time for less memory")
    compile: bool = expert(False, "Compile the UNet; it pays only in long training runs")
    device: str = expert("auto", "Device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`")
    seed: int = everyday(0, "Seed: the same recipe and seed on the same machine give the same result", ge=0)
    checkpoint_every: int = expert(
        0, "Steps between saved states; 0 = one every two minutes, or less often where saving takes long", ge=0
    )
    log_with: tuple[str, ...] = expert(
        (),
        "Loggers that numbers and previews are sent to as well, by Accelerate's names: tensorboard, wandb, mlflow, trackio, "
        "...; none = nothing is sent",
    )
    notify: tuple[str, ...] = expert(
        (),
        "Where a message goes at the end of a training run: addresses of Apprise such as json://HOST/PATH, or files that list "
        "them; none = nothing is sent",
    )

    @field_validator("optimizer_class")
    @classmethod
    def _is_alone(cls, value: str, info: ValidationInfo) -> str:
        if value and not is_address(value):
            raise ValueError(_("It is not of the form `package.module:Class`."))
        if value and info.data.get("optimizer") != cls.model_fields["optimizer"].default:
            raise ValueError(_("It takes the place of {key}; leave that out.", key="train.optimizer"))
        return value

    @field_validator("huber_schedule", "huber_c", "multires_noise_discount")
    @classmethod
    def _has_effect(cls, value: Any, info: ValidationInfo) -> Any:
        key, nothing = ("multires_noise", 0) if info.field_name == "multires_noise_discount" else ("loss", "l2")
        usual = cls.model_fields[str(info.field_name)].default
        if value != usual and info.data.get(key) == nothing:
            raise ValueError(_("It has no effect with {key} = {value}.", key=f"train.{key}", value=nothing))
        return value

    @field_validator("max_timestep")
    @classmethod
    def _is_a_range(cls, value: int, info: ValidationInfo) -> int:
        if value <= info.data.get("min_timestep", 0):
            raise ValueError(_("It must be greater than {key}.", key="train.min_timestep"))
        return value


class Regularize(Section):
    """Penalties on the trained weights, as steps of their own after the optimizer's (`training.penalties`). All three
    act on weights. Prior preservation (`data.reg_images`, `data.reg_generate`) acts on what the model does with images
    of the class instead, and takes twice the time."""

    l2: float = expert(
        0.0,
        "L2 towards the base model: without gradients, this alone would shrink the update to exp(-l2) of itself over "
        "the whole training run, independent of learning rate and steps; 0 = off",
        ge=0,
    )
    l1: float = expert(
        0.0,
        "L1, proximal: this share of each optimizer step is taken back, and what has no steady gradient stays "
        "exactly at the base model (ranks of a LoRA, networks of a hypernetwork, single weights in DreamBooth); 0 = "
        "off, 1 = nothing is learned",
        ge=0,
    )
    output_preservation: float = expert(
        0.0,
        "Differential output preservation: weight of what the base model itself predicts for captions with the class word in "
        "place of the trigger word, so that the class stays as it was without images of it; takes twice the time; 0 = off",
        ge=0,
        le=100,
    )
    max_norm: float = expert(
        0.0, "Largest norm of the change of any layer's weight (new words: of any vector); 0 = no limit", ge=0
    )


class Preview(Section):
    """Previews: images generated during the training, at fixed seeds."""

    prompts: tuple[str, ...] = everyday(
        (),
        "Prompts of the previews; `{trigger}` stands for the trigger word; none = made from trigger word and class word. "
        "Options of kohya's sd-scripts may follow: --n (negative) --w --h --d (seed) --l (CFG) --s (steps)",
    )
    file: Place = expert(
        "", "File with prompts of the previews, one a line; a run keeps them in its recipe as `preview.prompts`"
    )
    negative: str = expert("", "Negative prompt of the previews")
    every: int = everyday(0, "Steps between previews; 0 = only before and after", ge=0)
    num: int = expert(2, "Images per prompt, at seed, seed + 1, ...; 0 = no previews", ge=0, le=64)
    seed: int = expert(1, "Seed of the first preview", ge=0)
    steps: int = expert(0, "Sampling steps; 0 = the base model's own default", ge=0, le=1000)
    cfg: float = expert(0.0, "CFG scale; 0 = the base model's own default", ge=0)


class Guard(Section):
    """The overfitting guard: what is measured, and whether it may end the training."""

    mode: Literal["on", "warn", "off"] = everyday(
        "on",
        "Overfitting guard: `on` stops when the result no longer improves, `warn` only warns, `off` measures nothing",
    )
    folds: int = everyday(
        0, "Cross-validation folds; 0 = automatic: hold images out from 4 on, leave one out in turn of 3", ge=0, le=50
    )
    held_out: float = expert(
        0.15,
        "Share of the images that is held out (12 at most; at least 4, or 2 if they are not trained on afterwards)",
        gt=0,
        le=0.5,
    )
    patience: float = expert(
        0.5,
        "Patience: how long to wait for a better step, as a share of the best step so far; two checks at least",
        gt=0,
        le=10,
    )
    overhead: float = expert(
        0.06,
        "Most time that the guard's measurements may take, as a share of the training time; 0 = no limit",
        ge=0,
        le=1,
    )
    refit: bool = expert(
        True, "Afterwards, go on training with all images; false = keep the result without the held-out images"
    )

    range: bool = expert(
        False,
        "Write files of the `safe` and the `likeness` step as well; each goes on with all images like the result, in steps of its own",
    )

    @field_validator("folds")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError(_("It must be 0, or 2 to 50: with one fold no image is left to train on."))
        return value


class Output(Section):
    """The written files."""

    name: str = everyday("", "File name of the result; empty = the run folder's name")
    dtype: Literal["fp16", "bf16", "fp32"] = expert("fp16", "Precision of the written file")
    caption_tags: bool = expert(
        True,
        "Write the captions' tags and how often each occurs into the file (`ss_tag_frequency`), as other trainers "
        "do; false = nothing of the captions",
    )
    keep_states: int = expert(2, "Saved states to keep", ge=1)

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and (why := names.fault_of(value)) is not None:
            raise ValueError(why)
        return value
