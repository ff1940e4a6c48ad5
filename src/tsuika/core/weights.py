"""Weight files opened by what is in them, not by their names: header first, tensors on demand, never a running pickle.

Knows the containers (safetensors, torch pickles) and how to name a file that is something else; knows no family.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tsuika.core.errors import ModelError
from tsuika.core.files import whole
from tsuika.core.words import Words

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
_MAX_HEADER = 100_000_000  # bytes; the safetensors reader's own limit
_PICKLE = b"\x80"

# A file that is no weights at all, by its first bytes.
_MAGIC: tuple[tuple[bytes, Words], ...] = (
    (
        b"GGUF",
        Words(
            "a GGUF file (quantised weights of another program)", "GGUFファイル(ほかのプログラム用に量子化された重み)"
        ),
    ),
    (
        b"version https://git-lfs",
        Words(
            "a Git LFS pointer: the real file was not downloaded (git lfs pull)",
            "Git LFSのポインター(本体がダウンロードされていません。git lfs pull を実行してください)",
        ),
    ),
    (b"\x89PNG", Words("a PNG picture", "PNG画像")),
    (b"\xff\xd8\xff", Words("a JPEG picture", "JPEG画像")),
    (b"RIFF", Words("a WebP picture or a sound", "WebP画像または音声")),
    (b"%PDF", Words("a PDF", "PDF")),
    (b"7z\xbc\xaf", Words("a 7z archive: unpack it first", "7z書庫(先に展開してください)")),
    (b"Rar!", Words("a RAR archive: unpack it first", "RAR書庫(先に展開してください)")),
    (b"\x1f\x8b", Words("a gzip archive: unpack it first", "gzip書庫(先に展開してください)")),
)

EDM = Words("an SDXL made for EDM sampling (Playground, CosXL)", "EDMサンプリング用のSDXL(Playground、CosXL)")

# Weights that are not a whole Stable Diffusion, by a piece of a tensor name. The first match names the file.
_KINDS: tuple[tuple[str, Words], ...] = (
    (
        r"^lora_(unet|te\d?)_|\.lora_(up|down|A|B)\.|\.lora\.(up|down)\.|\.(hada|lokr)_w1|\.oft_(blocks|diag)",
        Words("a LoRA", "LoRA"),
    ),
    (r"^control_model\.|^controlnet_cond_embedding|^input_hint_block", Words("a ControlNet", "ControlNet")),
    (
        r"^(emb_params|string_to_param\.|clip_[lg]$)",
        Words("a Textual Inversion embedding", "Textual Inversionの埋め込み"),
    ),
    (r"(^|\.)double_blocks\.\d|(^|\.)single_blocks\.\d", Words("a Flux model", "Fluxのモデル")),
    (r"(^|\.)joint_blocks\.\d", Words("a Stable Diffusion 3 model", "Stable Diffusion 3のモデル")),
    (r"^conditioner\.embedders\.0\.model\.", Words("the SDXL refiner", "SDXLのrefiner")),
    (r"^(edm_mean|edm_std|edm_vpred\.)", EDM),
    (r"^(down_blocks|up_blocks|mid_block)\.", Words("a UNet alone, in diffusers layout", "UNetのみ(diffusers形式)")),
    (r"^(first_stage_model\.)?(encoder|decoder)\.(down|up|mid|conv_in)", Words("a VAE", "VAE")),
    (
        r"^(text_model|encoder\.layers|embeddings\.token_embedding)\b",
        Words("a text encoder alone", "テキストエンコーダーのみ"),
    ),
)
_UNET = "model.diffusion_model."


@dataclass(frozen=True)
class Weights:
    """An opened file of tensors: names, shapes and text metadata are known; a tensor is read when asked for."""

    path: Path
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str]
    tensor: Callable[[str], Tensor]

    def starts(self, prefix: str) -> bool:
        """Whether any tensor's name begins so."""
        return any(name.startswith(prefix) for name in self.shapes)

    def names(self, prefix: str) -> list[str]:
        """The tensors whose names begin so."""
        return [name for name in self.shapes if name.startswith(prefix)]


def open_weights(path: Path) -> Weights:
    """Open a weight file by its content.

    Raises:
        ModelError: not there (MD001), not weights (MD002), damaged (MD003), a pickle with code in it (MD005).
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(512)
    except OSError as error:
        why = Words(f"It cannot be read: {error.strerror}.", f"読み込めません: {error.strerror}。")
        raise ModelError("MD001", where=path, why=why) from None
    if size == 0:
        raise ModelError(
            "MD003", where=path, why=Words("The file is empty (0 bytes).", "ファイルの中身が空です(0バイト)。")
        )
    if len(head) > 8 and head[8:9] == b"{":  # first: a safetensors header of 128 bytes begins as a pickle does
        return _open_safetensors(path, size)
    if head.startswith(b"PK\x03\x04") or head.startswith(_PICKLE):
        return _open_pickle(path)
    raise ModelError("MD002", where=path, found=_name_bytes(head))


def _name_bytes(head: bytes) -> Words:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head")):
        return Words(
            "a web page: an error page was saved instead of the model",
            "Webページ(モデルではなくエラーページが保存されています)",
        )
    if text.startswith((b"{", b"[")):
        return Words("a JSON text", "JSONテキスト")
    begin = head[:8].hex(" ")
    return Words(f"data of an unknown kind, beginning with {begin}", f"{begin} で始まる未知の種類のデータ")


def _open_safetensors(path: Path, size: int) -> Weights:
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(size - 8, _MAX_HEADER):
            why = Words(
                f"Its header should be {length:,} bytes long, but the whole file has {size:,}.",
                f"ヘッダーだけで{length:,}バイトあるはずですが、ファイル全体が{size:,}バイトです。",
            )
            raise ModelError("MD003", where=path, why=why)
        raw = stream.read(length)
    try:
        header: dict[str, Any] = json.loads(raw)
        metadata = {str(key): str(value) for key, value in header.pop("__metadata__", {}).items()}
        shapes = {name: tuple(entry["shape"]) for name, entry in header.items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        why = Words(f"Its safetensors header cannot be read: {error}.", f"safetensorsのヘッダーが読めません: {error}。")
        raise ModelError("MD003", where=path, why=why) from None
    if (needed := 8 + length + end) != size:
        why = Words(
            f"It should be {needed:,} bytes long and has {size:,}.",
            f"{needed:,}バイトあるはずですが、{size:,}バイトです。",
        )
        raise ModelError("MD003", where=path, why=why)
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ModelError("MD003", where=path, why=f"{error}.") from None
    return Weights(path, shapes, metadata, handle.get_tensor)


def load_pickle(path: Path) -> Any:
    """What a torch file holds: tensors and plain values only; nothing in it is ever run.

    Raises:
        ModelError: damaged (MD003), a pickle that asks for more than that (MD005).
    """
    import torch

    # The old, not zipped layout cannot be mapped into memory; and of a path, torch takes the name for the content.
    mapped = zipfile.is_zipfile(path) and path.suffix.lower() != ".safetensors"
    try:
        with path.open("rb") as stream:
            return torch.load(path if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL\s+(\S+)", str(error)) or re.search(
            r"(?:type|class|function)\s+['\"]?([\w.]+)", str(error)
        )
        asked = Words(found[1]) if found else Words("something that is not a tensor", "テンソルではないもの")
        why = Words(
            f"The pickle asks for: {asked}. Nothing of it was run.",
            f"pickleが要求しているもの: {asked.ja}。何も実行していません。",
        )
        raise ModelError("MD005", where=path, why=why) from None
    except (
        RuntimeError,
        EOFError,
        ValueError,
        KeyError,
        AttributeError,
        IndexError,
        OSError,
        AssertionError,
        TypeError,
        struct.error,
        zipfile.BadZipFile,
    ) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        why = Words(f"It is no complete torch file: {line}.", f"torchのファイルとして完全ではありません: {line}。")
        raise ModelError("MD003", where=path, why=why) from None


def is_pickle(path: Path) -> bool:
    """Whether a file begins as torch's pickles do, zipped or not (and not as safetensors, whose length may look so)."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return head.startswith((b"PK\x03\x04", _PICKLE)) and head[8:] != b"{"


_MEMBERS = re.compile(r"[^/]+/(data\.pkl|version|data/\d+)")  # of a torch file: what every A1111 lets pass


def save_pickle(content: Any, path: Path) -> None:
    """Write tensors and plain values as a torch file that old and new programs open, whole or not at all.

    The same content gives the same bytes. A1111's guard refuses a file with the members that torch adds today
    (`.format_version`, `.storage_alignment`, ...), and torch's old layout has memory addresses in it.
    """
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as full, whole(path) as temporary, zipfile.ZipFile(temporary, "w") as bare:
        for name in filter(_MEMBERS.fullmatch, full.namelist()):
            bare.writestr(zipfile.ZipInfo(name), full.read(name))  # dated 1980, not compressed


def _open_pickle(path: Path) -> Weights:
    import torch

    content = load_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, dict) else {}
    )
    if not tensors:
        kind = type(content).__name__
        raise ModelError(
            "MD002", where=path, found=Words(f"a pickle without tensors ({kind})", f"テンソルのないpickle({kind})")
        )
    return Weights(path, {name: tuple(value.shape) for name, value in tensors.items()}, {}, tensors.__getitem__)


def open_folder(folder: Path, stem: str) -> Weights:
    """The weights of one diffusers or transformers component, in one file or sharded; safetensors before pickles.

    Args:
        folder: The component's folder.
        stem: `diffusion_pytorch_model` or `model`.

    Raises:
        ModelError: none there (MD003), or as `open_weights`.
    """
    pickled = "pytorch_model" if stem == "model" else stem
    for name in (f"{stem}.safetensors", f"{stem}.fp16.safetensors", f"{pickled}.bin", f"{pickled}.fp16.bin"):
        if (folder / name).is_file():
            return open_weights(folder / name)
        index = folder / f"{name}.index.json"
        if index.is_file():
            return _open_shards(index)
    why = Words(f"There is no {stem}.safetensors in it.", f"{stem}.safetensors がありません。")
    raise ModelError("MD003", where=folder, why=why)


def _open_shards(index: Path) -> Weights:
    places = read_json(index).get("weight_map", {})
    if not isinstance(places, dict) or not all(map(_is_beside, places.values())):
        why = Words(
            "Its `weight_map` is no table of tensors and the files beside it that hold them.",
            "`weight_map` が、テンソルと同じフォルダーのファイル名との対応表になっていません。",
        )
        raise ModelError("MD003", where=index, why=why)
    parts = {name: open_weights(index.with_name(name)) for name in sorted(set(places.values()))}
    owner = {tensor: parts[name] for tensor, name in places.items()}
    if lost := [tensor for tensor, part in owner.items() if tensor not in part.shapes]:
        why = Words(
            f"Tensors are not in the part that should hold them: {few(lost)}.",
            f"分割ファイルの、あるはずの場所にテンソルがありません: {few(lost).ja}。",
        )
        raise ModelError("MD003", where=index, why=why)
    shapes = {tensor: part.shapes[tensor] for tensor, part in owner.items()}
    return Weights(index, shapes, {}, lambda name: owner[name].tensor(name))


def _is_beside(name: object) -> bool:
    """Whether it is a file's plain name, which leads nowhere else."""
    return isinstance(name, str) and name.isprintable() and name not in ("", "..") and Path(name).name == name


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
        ModelError: not there or no JSON object (MD003).
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = Words(f"It cannot be read: {error.strerror}.", f"読み込めません: {error.strerror}。")
        raise ModelError("MD003", where=path, why=why) from None
    except ValueError as error:
        raise ModelError(
            "MD003", where=path, why=Words(f"It is no JSON: {error}.", f"JSONではありません: {error}。")
        ) from None
    if not isinstance(value, dict):
        kind = type(value).__name__
        why = Words(f"It holds a JSON {kind}, not an object.", f"中身がJSONの{kind}で、オブジェクトではありません。")
        raise ModelError("MD003", where=path, why=why)
    return value


def describe(weights: Weights) -> Words:
    """What a file of tensors is, in words, for an error message."""
    names = list(weights.shapes)
    for pattern, kind in _KINDS:
        if any(re.search(pattern, name) for name in names) and not (kind == "a VAE" and weights.starts(_UNET)):
            return kind
    channels = weights.shapes.get(f"{_UNET}input_blocks.0.0.weight", (0, 4))[1]
    if channels != 4:
        return of_channels(channels)
    if weights.starts(_UNET):
        return Words("a UNet without a text encoder that tsuika knows", "tsuikaの扱えるテキストエンコーダーがないUNet")
    shown = few(names)
    return Words(
        f"{len(names)} tensors of no known kind: {shown}", f"種類の分からない{len(names)}個のテンソル: {shown.ja}"
    )


def of_channels(channels: int) -> Words:
    """What a model is, for an error message, whose UNet does not take a latent's four channels."""
    return Words(
        f"a model with {channels} input channels (inpainting, depth or editing), where 4 are expected",
        f"入力が{channels}チャンネルのモデル(インペイント・深度・編集用。必要なのは4チャンネル)",
    )


def few(names: Iterable[str], count: int = 3) -> Words:
    """The first few names, and how many more there are."""
    names = sorted(names)
    shown, more = ", ".join(names[:count]), len(names) - count
    return Words(f"{shown} and {more} more", f"{shown} ほか{more}個") if more > 0 else Words(shown)
