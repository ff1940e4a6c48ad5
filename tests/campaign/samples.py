"""Valid files for every reader, small, and the commands that read them: what the campaign starts from."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

sys.path += [str(Path(__file__).parents[1] / part) for part in ("families", "training", "formats")]
import lora_samples
from family_files import single_file_tensors, write_folder, write_single
from runs import settings

from tiny_models import draw_pictures, shallow
from tsuika import config, formats
from tsuika.core.types import Artifact
from tsuika.methods import METHODS
from tsuika.methods.hypernetwork import Hypernetwork, nets

# In a command: the file, the folder for results, what lies ready for all (a base, images).
FILE, OUT, READY = "<in>", "<out>", "<ready>"
# The file or folder as a copy under `out`, for commands that may change it.
OWN = "<own>"
# The folder that the file lies in.
FOLDER = "<folder>"


@dataclass(frozen=True)
class Sample:
    """A valid file or folder: `files` are the ones that are changed (all, if empty), `words` the commands that read it;
    `slow` ones run more seldom."""

    path: Path
    words: Sequence[Sequence[str]]
    slow: Sequence[Sequence[str]] = ()
    files: Sequence[str] = field(default=())

    def changeable(self) -> list[Path]:
        """The files one of which is changed, relative to the sample."""
        if self.path.is_file():
            return [Path(self.path.name)]
        found = sorted(one.relative_to(self.path) for one in self.path.rglob("*") if one.is_file())
        return [one for one in found if not self.files or any(one.match(form) for form in self.files)]


INSPECT = (("inspect", FILE, "--json"), ("inspect", FILE))
EMBEDDED_SIZE = ("--size", "64", "--steps", "1", "--device", "cpu")
DRAW = ("generate", "--prompt", "a cat", "--out", f"{OUT}/x.png", "--base", f"{READY}/base", *EMBEDDED_SIZE)


def _convert(*names: str) -> list[tuple[str, ...]]:
    suffix = {"diffusers": "folder", "single-file": "x.safetensors"}
    return [
        ("convert", FILE, "--to", name, "--out", f"{OUT}/{suffix.get(name, 'x.safetensors')}", *more)
        for name in names
        for more in ((), ("--lossy",))
    ]


LORA = [
    *INSPECT,
    *_convert("kohya", "diffusers"),
    ("merge", FILE, f"{FILE}:0.5", "--out", f"{OUT}/m.safetensors"),
    ("resize", FILE, "--rank", "1", "--out", f"{OUT}/r.safetensors"),
]
EMBEDDING = [*INSPECT, ("convert", FILE, "--to", "a1111", "--out", f"{OUT}/x.pt"), *_convert("kohya", "diffusers")]
HYPERNETWORK = [*INSPECT, ("convert", FILE, "--to", "a1111", "--out", f"{OUT}/x.pt"), *_convert("native")]
VAE = [*INSPECT, *_convert("diffusers", "single-file")]
BASE = [*INSPECT, *_convert("diffusers", "single-file")]


class Samples:
    """Made once, in a folder."""

    def __init__(self, place: Path) -> None:
        self.place, self.ready = place / "samples", place / "ready"
        self.ready.mkdir(parents=True)
        self.model = shallow()
        write_folder(self.model, self.ready / "base", old_style=True)
        draw_pictures(self.ready / "images")
        self._makers: dict[str, Callable[[Path], list[Sample]]] = {
            "safetensors": self._safetensors,
            "pickles": self._pickles,
            "embeddings": self._embeddings,
            "hypernetworks": self._hypernetworks,
            "vaes": self._vaes,
            "diffusers folders": self._folders,
            "images": self._images,
            "texts in images": self._png_info,
            "captions": self._captions,
            "recipes": self._recipes,
            "run folders": self._runs,
        }
        self._made: dict[str, list[Sample]] = {}

    @property
    def readers(self) -> tuple[str, ...]:
        """Names of all readers."""
        return tuple(self._makers)

    def of(self, reader: str) -> list[Sample]:
        """The samples of a reader."""
        if reader not in self._made:
            folder = self.place / reader
            folder.mkdir(parents=True)
            self._made[reader] = self._makers[reader](folder)
        return self._made[reader]

    def _lora(self) -> Artifact:
        layers = lora_samples.targets({"unet": self.model.unet}, conv=True)  # type: ignore[dict-item]
        few = dict([*layers.items()][::12])
        return lora_samples.artifact("sd1", few, rank=lambda _module: 2)

    def _safetensors(self, folder: Path) -> list[Sample]:
        artifact = self._lora()
        found = []
        for known in formats.LORA:
            path = folder / f"{known.name}.safetensors"
            known.write(artifact, path, dtype=torch.float32)
            found.append(Sample(path, LORA, [(*DRAW, "--lora", FILE)]))
        base = write_single(self.model, folder / "model.safetensors", {"modelspec.title": "x"})
        found.append(Sample(base, INSPECT, [*BASE[2:], (*DRAW[:6], FILE, *DRAW[7:], "--tokenizer", f"{READY}/base")]))
        save_file({f"a.{n}": torch.randn(n + 1) for n in range(4)}, folder / "other.safetensors", {"format": "pt"})
        return [*found, Sample(folder / "other.safetensors", INSPECT)]

    def _pickles(self, folder: Path) -> list[Sample]:
        found = []
        (kohya, *_others) = formats.LORA
        kohya.write(self._lora(), folder / "lora.safetensors", dtype=torch.float32)
        from safetensors.torch import load_file

        tensors = load_file(folder / "lora.safetensors")
        for name, is_new in (("lora.pt", True), ("lora.bin", False)):
            torch.save(tensors, folder / name, _use_new_zipfile_serialization=is_new)
            found.append(Sample(folder / name, LORA))
        weights = single_file_tensors(self.model)
        for name, is_new in (("model.ckpt", True), ("old.ckpt", False)):
            torch.save({"state_dict": weights, "global_step": 7}, folder / name, _use_new_zipfile_serialization=is_new)
            found.append(Sample(folder / name, INSPECT, BASE[2:]))
        return found

    def _embeddings(self, folder: Path) -> list[Sample]:
        vectors = 0.01 * torch.randn(2, 768, generator=torch.Generator().manual_seed(0))
        table = {
            "string_to_token": {"*": 265},
            "string_to_param": {"*": vectors},
            "name": "word",
            "step": 99,
            "sd_checkpoint": "ab",
        }
        save_file({"emb_params": vectors}, folder / "kohya.safetensors", {"ss_steps": "3"})
        save_file({"clip_l": vectors, "clip_g": torch.randn(2, 1280)}, folder / "sdxl.safetensors")
        torch.save(table, folder / "a1111.pt")
        torch.save({"<cat-toy>": vectors[0]}, folder / "learned_embeds.bin", _use_new_zipfile_serialization=False)
        return [Sample(path, EMBEDDING) for path in sorted(folder.iterdir())]

    def _hypernetworks(self, folder: Path) -> list[Sample]:
        chosen = Hypernetwork(layer_structure=(1, 2, 1), layer_norm=True, dropout=(0, 0.3, 0))
        modules = {f"{width}.{side}": nets.Net(width, chosen) for width in (8, 24) for side in "kv"}
        tensors = {f"{key}.{name}": one.data for key, net in modules.items() for name, one in net.named_parameters()}
        artifact = Artifact("hypernetwork", "sd1", tensors, {**nets.header(chosen), "name": "画風", "steps": "300"})
        found = []
        for known in formats.for_method("hypernetwork"):
            path = folder / f"{known.name}{known.suffix}"
            known.write(artifact, path, dtype=torch.float32)
            found.append(Sample(path, HYPERNETWORK))
        return found

    def _vaes(self, folder: Path) -> list[Sample]:
        self.model.vae.save_pretrained(folder / "folder", safe_serialization=True)  # type: ignore[operator]
        prefix = "first_stage_model."
        tensors = {
            name.removeprefix(prefix): one
            for name, one in single_file_tensors(self.model).items()
            if name.startswith(prefix)
        }
        save_file(tensors, folder / "vae.safetensors")
        torch.save({"state_dict": tensors}, folder / "vae.pt")
        return [
            Sample(folder / name, VAE, [(*DRAW, "--vae", FILE)]) for name in ("folder", "vae.safetensors", "vae.pt")
        ]

    def _folders(self, folder: Path) -> list[Sample]:
        shutil.copytree(self.ready / "base", folder / "base")
        draw = [*BASE[2:], (*DRAW[:6], FILE, *DRAW[7:])]
        # The settings and words of a model; then its weights.
        texts = ("*.json", "*.txt")
        return [
            Sample(folder / "base", INSPECT, draw, texts),
            Sample(folder / "base", INSPECT, draw, texts),
            Sample(folder / "base", INSPECT, draw),
        ]

    def _images(self, folder: Path) -> list[Sample]:
        chance = random.Random(0)
        plain = Image.frombytes("RGB", (72, 64), chance.randbytes(72 * 64 * 3))
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", "a cat\nNegative prompt: dog\nSteps: 20, Sampler: Euler, Seed: 3, Size: 72x64")
        plain.save(folder / "a.png", pnginfo=info)
        plain.convert("RGBA").save(folder / "alpha.png")
        plain.quantize(16).save(folder / "palette.png")
        plain.convert("L").save(folder / "gray.png")
        exif = Image.Exif()
        exif[0x0112], exif[0x010E] = 6, "a cat"
        plain.save(folder / "a.jpg", exif=exif)
        plain.convert("CMYK").save(folder / "cmyk.jpg")
        plain.save(folder / "a.webp", lossless=True)
        plain.save(folder / "moving.webp", save_all=True, append_images=[plain.rotate(90)])
        plain.save(folder / "a.tiff", compression="tiff_lzw")
        plain.save(folder / "pages.tif", save_all=True, append_images=[plain.rotate(90)], compression="tiff_deflate")
        plain.save(folder / "a.gif", save_all=True, append_images=[plain.rotate(90)])
        plain.save(folder / "a.bmp")
        check = [("check", FOLDER, "--json", "--size", "64")]
        return [Sample(path, [*INSPECT, *check]) for path in sorted(folder.iterdir())]

    def _png_info(self, folder: Path) -> list[Sample]:
        from tsuika.generation import png_info

        about = png_info.GenerationInfo(
            "a cat, <lora:x:0.5>",
            "dog",
            20,
            "DPM++ 2M Karras",
            7.0,
            3,
            (64, 64),
            "ab",
            "x",
            lora_hashes={"x": "ab"},
            extra={"Hires": '"a, b"'},
        )
        png_info.write_png(folder / "ours.png", Image.new("RGB", (64, 64)), about, {"steps": 3})
        (folder / "text.txt").write_text(png_info.to_text(about), encoding="utf-8")
        (folder / "own.json").write_text(json.dumps({"prompt": "a", "negative": "", "steps": 3}), encoding="utf-8")
        return [Sample(folder / name, INSPECT) for name in ("ours.png", "text.txt", "own.json")]

    def _captions(self, folder: Path) -> list[Sample]:
        found = []
        texts = {
            "lines.txt": "a cat, sitting\na cat on a mat\n猫",
            "own.caption": "a cat, 1girl, (smile:1.2)",
            "own.json": json.dumps({"caption": "a cat", "tags": ["x", "y"], "tag_string": "a b"}),
            "metadata.jsonl": "\n".join(json.dumps({"file_name": f"{n}.png", "text": f"cat {n}"}) for n in range(4)),
            "metadata.csv": 'file_name,text\n0.png,a cat\n1.png,"a, dog"\n2.png,x\n',
            "table.tsv": "file_name\tcaption\n0.png\ta cat\n1.png\ta dog\n",
            "meta_cap.json": json.dumps({f"{n}.png": {"caption": f"cat {n}", "tags": "a, b"} for n in range(4)}),
        }
        for name, text in texts.items():
            place = folder / name.replace(".", "-")
            place.mkdir()
            for number in range(2):
                shutil.copy(self.ready / "images" / f"{number}.png", place / f"{number}.png")
            stem = "0" if name.startswith(("lines", "own")) else Path(name).stem
            (place / f"{stem}{Path(name).suffix}").write_text(text, encoding="utf-8")
            words = [
                ("check", FILE, "--json", "--size", "64"),
                ("check", FILE, "--size", "64", "--trigger", "zuzu", "--class-word", "cat"),
            ]
            found.append(Sample(place, words, files=(f"{stem}{Path(name).suffix}",)))
        return found

    def _recipes(self, folder: Path) -> list[Sample]:
        for method in METHODS:
            tables = config.override(
                {},
                {
                    **settings(method),
                    "method.name": method,
                    "base.model": "embedded",
                    "data.images": "x",
                    "data.trigger": "zuzu",
                },
            )
            (folder / f"{method}.toml").write_text(config.dump(config.build(tables)), encoding="utf-8")
        (folder / "sd-scripts.toml").write_text(
            'pretrained_model_name_or_path = "x.safetensors"\ntrain_data_dir = "images"\noutput_dir = "out"\noutput_name = "zuzu"\n'
            'network_module = "networks.lora"\nnetwork_dim = 8\nnetwork_alpha = 4\nnetwork_args = ["conv_dim=4", "conv_alpha=1"]\n'
            'max_train_steps = 300\nlearning_rate = 1e-4\nunet_lr = "1e-4"\noptimizer_type = "AdamW8bit"\n'
            'resolution = "512,512"\nseed = 3\n'
            'lr_scheduler = "cosine"\nmixed_precision = "fp16"\ntrain_batch_size = 2\nnoise_offset = 0.1\n'
            'min_snr_gamma = 5\ndataset_config = "dataset.toml"\n',
            encoding="utf-8",
        )
        (folder / "dataset.toml").write_text(
            '[general]\nshuffle_caption = true\ncaption_extension = ".txt"\n[[datasets]]\nresolution = 512\nbatch_size = 4\n'
            '[[datasets.subsets]]\nimage_dir = "images"\nclass_tokens = "zuzu cat"\nnum_repeats = 10\n',
            encoding="utf-8",
        )
        gui = {
            "LoRA_type": "Standard",
            "pretrained_model_name_or_path": "x",
            "train_data_dir": "images",
            "network_dim": 8,
            "network_alpha": 1,
            "epoch": 10,
            "max_resolution": "512,512",
            "optimizer": "AdamW",
            "learning_rate": 0.0001,
            "unet_lr": 1e-4,
            "text_encoder_lr": 5e-5,
            "seed": "",
            "lr_scheduler": "cosine",
            "max_train_steps": "300",
            "train_batch_size": 1,
            "conv_dim": 1,
            "output_name": "zuzu",
            "additional_parameters": "",
        }
        (folder / "gui.json").write_text(json.dumps(gui), encoding="utf-8")
        one_trainer = {
            "training_method": "LORA",
            "model_type": "STABLE_DIFFUSION_15",
            "concepts": [{"path": "images", "balancing": 2.0, "image": {}, "text": {"prompt_source": "sample"}}],
            "unet": {"learning_rate": 1e-4, "train": True},
            "optimizer": {"optimizer": "ADAMW", "weight_decay": 0.01},
            "ema": "GPU",
            "ema_decay": 0.99,
            "learning_rate_scaler": "BOTH",
            "layer_filter_preset": "attn-mlp",
            "samples": [{"prompt": "a cat", "seed": 3}],
        }
        (folder / "onetrainer.json").write_text(json.dumps(one_trainer), encoding="utf-8")
        (folder / "train.sh").write_text(
            "export OUT=out\naccelerate launch --num_processes 2 train_network.py \\\n"
            '  --network_module networks.lora --network_dim=8 --output_dir "$OUT/x" --resolution=512,512 \\\n'
            '  --network_args "conv_dim=4" --learning_rate 1e-4 --max_train_steps 300 --lr_warmup_steps 30 --lr_scheduler=cosine\n',
            encoding="utf-8",
        )
        header = {"ss_network_module": "networks.lora", "ss_network_dim": "8", "ss_network_args": '{"conv_dim": "4"}'}
        header |= {
            "ss_optimizer": "torch.optim.adamw.AdamW(weight_decay=0.1,betas=(0.9, 0.99))",
            "ss_resolution": "(512, 512)",
        }
        header |= {"ss_max_train_steps": "300", "ss_datasets": '[{"subsets": [{"num_repeats": 2}]}]'}
        save_file({"lora_unet_a.alpha": torch.ones(1)}, folder / "lora.safetensors", header)
        words = [
            (
                "train",
                "--recipe",
                FILE,
                "--images",
                f"{READY}/images",
                "--base",
                f"{READY}/base",
                "--out",
                f"{OUT}/run",
                "--dry-run",
                "--json",
            ),
            ("check", f"{READY}/images", "--recipe", FILE, "--json"),
        ]
        return [Sample(path, words) for path in sorted(folder.iterdir())]

    def _runs(self, folder: Path) -> list[Sample]:
        """A run that is finished, and one that was stopped."""
        import tsuika
        from tsuika.core.events import Stepped

        own = {
            "base.model": str(self.ready / "base"),
            "data.images": str(self.ready / "images"),
            "data.trigger": "zuzu",
        }
        recipe = config.build(config.override({}, settings(train={"steps": 4, "checkpoint_every": 2}) | own))
        _ = tsuika.train(recipe, folder / "whole").result
        run = tsuika.train(recipe, folder / "stopped")
        for event in run:
            if isinstance(event, Stepped) and event.step == 3:
                run.stop()
        words = [
            ("status", FILE, "--json"),
            ("status", FILE),
            *INSPECT,
            ("export", FILE, "--to", f"{OUT}/client"),
            ("publish", FILE, "--out", f"{OUT}/card"),
        ]
        texts = ("*.json", "*.jsonl", "*.toml")
        return [
            Sample(folder / "whole", [*words, ("resume", OWN)], files=texts),
            Sample(folder / "whole", words),
            Sample(folder / "stopped", words, [("resume", OWN)]),
        ]
