"""Valid files made wrong: as bytes, and by what they hold (a header, a table, a chunk, a value), the rest put right again.

Everything is a function of the `random.Random` that is passed in.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

Mutation = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    *(
        0,
        1,
        -1,
        2,
        3,
        7,
        255,
        256,
        65536,
        2**31 - 1,
        2**31,
        2**32,
        2**53,
        2**62,
        2**63 - 1,
        2**63,
        2**64,
        10**30,
        -(2**63),
    ),
    *(0.5, -0.0, 1e-320, 1e308, 1e999, -1e999, float("nan")),
)
STRINGS = (
    *(
        "",
        " ",
        "\n",
        "\x00",
        "a\x00b",
        "\x1b[31mred",
        "a\r\nb",
        "..",
        "../../../tmp/x",
        "/",
        "C:\\CON",
        "nan",
        "None",
        "-1",
        "1e999",
    ),
    *(
        "\ud800",
        "\u202egpj.exe",
        "𝔘" * 40,
        "é" * 300,
        "x" * 5000,
        "%s{where}{0}",
        "{x}",
        "[[[",
        "<script>",
        "日本語",
        "\ufeff",
    ),
    *("float32", "F8_E4M3", "BOOL", "os.system", "lora_unet_x", "sd1", "v_prediction", "true", "9" * 5000),
)


def odd(chance: random.Random, depth: int = 0) -> Any:
    """A value that nobody expects."""
    kind = chance.randrange(9)
    if kind < 3:
        return chance.choice(NUMBERS)
    if kind < 6:
        return chance.choice(STRINGS)
    if kind == 6:
        return chance.choice((None, True, False, [], {}))
    if depth > 2:
        return None
    if kind == 7:
        return [odd(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {str(odd(chance, 3))[:40]: odd(chance, depth + 1) for _ in range(chance.randrange(4))}


def deep(levels: int) -> Any:
    """Lists in lists."""
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in [*items][:400]:
        found.append((value, key))
        _places(inner, found)
    return found


def changed(value: Any, chance: random.Random, other: Callable[[Any, random.Random], Any] | None = None) -> Any:
    """Plain tables and lists (changed in place) with up to three values, keys or entries other than they were."""
    if chance.random() < 0.02:
        return odd(chance)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        places = _places(value, [])
        if not places:
            return odd(chance)
        table, key = chance.choice(places)
        match chance.randrange(8):
            case 0 | 1 | 2:
                table[key] = odd(chance)
            case 3 if other:
                table[key] = other(table[key], chance)
            case 3:
                table[key] = [table[key]]
            case 4:
                del table[key]
            case 5 if isinstance(table, dict):
                table[chance.choice((str(odd(chance, 3))[:200], f"{key}x", f"x.{key}"))] = table.pop(key)
            case 6:
                donor, at = chance.choice(places)
                if at in donor if isinstance(donor, dict) else at < len(donor):
                    # A copy: what holds itself is another fault, which JSON cannot have.
                    table[key] = json.loads(json.dumps(donor[at])) if is_plain(donor[at]) else odd(chance)
            case _:
                inner = table[key]
                table[key] = -inner if isinstance(inner, int | float) else str(inner)[:1000]
    return value


def is_plain(value: Any) -> bool:
    """Whether JSON can hold it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


# ----------------------------------------------------------------------------------------------------------- any bytes


def of_bytes(content: bytes, chance: random.Random) -> bytes:
    """Bits, bytes, numbers and pieces replaced, cut, lengthened, repeated; more often near the beginning."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        size = len(data)
        at = chance.randrange(size) if size and chance.random() < 0.5 else chance.randrange(min(size, 128) or 1)
        length = chance.choice((1, 2, 4, 8, 64, 1000))
        match chance.randrange(10):
            case 0 if size:
                data[at] ^= 1 << chance.randrange(8)
            case 1 if size:
                data[at] = chance.choice((0, 255, 127, 128, ord("{"), ord('"')))
            case 2:
                data = data[:at]
            case 3:
                data += chance.choice((b"\x00", chance.randbytes(1), b"\n")) * length
            case 4:
                del data[at : at + length]
            case 5:
                data[at:at] = data[at : at + length]
            case 6:
                number = chance.choice((0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1))
                width = chance.choice((1, 2, 4, 8))
                order = chance.choice(("little", "big"))
                data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)
            case 7:
                data[at : at + length] = chance.randbytes(length)
            case 8:
                other = chance.randrange(size or 1)
                data[at : at + length] = data[other : other + length]
            case _ if chance.random() < 0.1:
                data = bytearray(chance.choice((b"", b"\x00" * 100, b"{", b"\x80\x02", b"PK\x03\x04", content * 2)))
    return bytes(data)


# --------------------------------------------------------------------------------------------------------------- texts

_VALUE = re.compile(r'(?<=[=:\[,( ])\s*("(?:[^"\\\n]|\\.)*"|[-+]?[\w.]+)')


def encoded(text: str, chance: random.Random) -> bytes:
    """A text in some encoding, now and then a wrong one."""
    name = chance.choice(
        ("utf-8",) * 12 + ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "shift_jis", "cp1252", "gb18030")
    )
    raw = text.encode(name, "surrogatepass" if name.startswith("utf") else "replace")
    return raw + b"\xff\xfe\x81" if chance.random() < 0.03 else raw


def of_text(content: bytes, chance: random.Random) -> bytes:
    """Values, lines and marks of a text replaced, moved, taken away; nested; in another encoding."""
    text = content.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2, 3))):
        lines = text.split("\n")
        row = chance.randrange(len(lines))
        match chance.randrange(10):
            case 0 | 1 | 2 | 3 if found := [*_VALUE.finditer(text)]:
                place = chance.choice(found)
                text = text[: place.start(1)] + literal(chance) + text[place.end(1) :]
                continue
            case 4:
                del lines[row]
            case 5:
                lines.insert(row, chance.choice(lines))
            case 6:
                lines.insert(
                    row,
                    chance.choice(
                        (literal(chance), f"x = {literal(chance)}", f"[{literal(chance)}]", "\x00", "🙂" * 9)
                    ),
                )
            case 7:
                levels = chance.choice((40, 2000, 120_000))
                mark = chance.choice(("[", "(", "{", '{"a":', "<lora:", "[a:"))
                lines[row] += mark * levels
            case 8:
                at = chance.randrange(len(lines[row]) + 1)
                lines[row] = lines[row][:at] + chance.choice((*STRINGS, *"\"'\\#=:,[]{}()<>|\t")) + lines[row][at:]
            case _:
                lines[row] = lines[row] * chance.choice((0, 2, 50))
        text = "\n".join(lines)
    return encoded(text, chance)


def literal(chance: random.Random) -> str:
    """An odd value as it may stand in TOML, JSON or a prompt."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.choice(
            (
                "nan",
                "inf",
                "-inf",
                "1e999",
                "0x10",
                "1_0",
                "1979-05-27",
                "07:32:00",
                "9" * 5000,
                "-0",
                "null",
                "''",
                '"""',
            )
        )
    value = odd(chance)
    if kind == 1 or not isinstance(value, str):
        return json.dumps(value)
    return value


def of_json(content: bytes, chance: random.Random) -> bytes:
    """JSON (one, or one a line) with other values in it."""
    text = content.decode("utf-8", "replace")
    try:
        return encoded(json.dumps(changed(json.loads(text), chance), ensure_ascii=chance.random() < 0.5), chance)
    except ValueError:
        lines = text.split("\n")
        row = chance.randrange(len(lines))
        try:
            lines[row] = json.dumps(changed(json.loads(lines[row]), chance))
        except ValueError:
            return of_text(content, chance)
        return encoded("\n".join(lines), chance)


# ------------------------------------------------------------------------------------------------------------- weights


def of_safetensors(content: bytes, chance: random.Random) -> bytes:
    """Another header, its length right again; or other numbers in the data."""
    end = 8 + int.from_bytes(content[:8], "little")
    data = bytearray(content[end:])
    raw = content[8:end]
    header = json.loads(raw)
    names = [name for name in header if name != "__metadata__"]
    entry = header[chance.choice(names)]
    match chance.randrange(8):
        case 0:
            entry["shape"] = chance.choice(
                (
                    [],
                    [0],
                    entry["shape"][::-1],
                    [*entry["shape"], 1],
                    [1, *entry["shape"]],
                    [2**40],
                    [2**31, 2**31],
                    [0, 2**62],
                )
            )
        case 1:
            entry["dtype"] = chance.choice(
                ("F64", "F32", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "C64", "X", "")
            )
        case 2:
            # The same bytes as numbers of half the size.
            halves = {"F32": "F16", "F16": "U8", "BF16": "I8"}
            if entry["dtype"] in halves and entry["shape"]:
                entry["dtype"] = halves[entry["dtype"]]
                entry["shape"] = [*entry["shape"][:-1], entry["shape"][-1] * 2]
        case 3 if data:
            start, stop = entry["data_offsets"]
            filler = chance.choice(
                (
                    b"\x00\x00\xc0\x7f",
                    b"\x00\x00\x80\x7f",
                    b"\xff\xff\x7f\x7f",
                    b"\x00\x7c",
                    b"\x00",
                    b"\x01\x00\x00\x00",
                )
            )
            data[start:stop] = (filler * (stop - start))[: stop - start]
        case 4:
            table = header.setdefault("__metadata__", {})
            key = chance.choice(
                (
                    *table,
                    "ss_network_args",
                    "ss_base_model_version",
                    "ss_network_module",
                    "modelspec.architecture",
                    "format",
                    "tsuika.family",
                    "x",
                )
            )
            table[key] = chance.choice((str(odd(chance)), json.dumps(odd(chance)), "[" * 100_000, odd(chance)))
        case 5:
            # An entry under another name; the names of one tensor and of another, too.
            name = chance.choice(names)
            header[
                chance.choice(
                    (
                        chance.choice(names),
                        f"{name}.x",
                        name.replace(".", "_"),
                        name.replace("0", "9999999999"),
                        "a.b",
                        "",
                        "x" * 3000,
                    )
                )
            ] = header.pop(name)
        case 6:
            for name in chance.sample(names, chance.randrange(1, len(names) + 1)):
                del header[name]
            header, data = _closed(header, content[end:])
        case _:
            header = changed(header, chance)
    made = json.dumps(header, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.05:
        made = encoded(made.decode("utf-8", "replace"), chance)
    if chance.random() < 0.03:
        made = b'{"a":' + b"[" * 200_000 + made
    made += b" " * (-len(made) % 8)
    return len(made).to_bytes(8, "little") + made + bytes(data)


def _closed(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytearray]:
    """The tensors that are left, one behind the other."""
    made = bytearray()
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            entry["data_offsets"] = [len(made), len(made) + stop - start]
            made += data[start:stop]
    return header, made


def _other_tensor(value: Any, chance: random.Random) -> Any:
    import torch

    tensor = value if isinstance(value, torch.Tensor) else torch.ones(2, 3)
    made: Callable[[], Any] = chance.choice(
        (
            lambda: tensor.double(),
            lambda: tensor.to(torch.int8),
            lambda: tensor.to(torch.bool),
            lambda: tensor.to(torch.bfloat16),
            lambda: tensor.to(torch.complex64),
            lambda: tensor.T if tensor.ndim == 2 else tensor[None],
            lambda: tensor[..., :0],
            lambda: tensor.flatten()[0],
            lambda: tensor * float("nan"),
            lambda: tensor * 1e38,
            lambda: torch.zeros(1).expand(2**20, 2**12),
            lambda: torch.zeros(1).expand(2**31, 2**20),
            lambda: torch.empty(2, 3, device="meta"),
            lambda: torch.eye(3).to_sparse(),
            lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
            lambda: torch.nn.Parameter(tensor.float()),
            lambda: torch.zeros(3).numpy(),
        )
    )
    return made()


class Attack:
    """A pickle of it runs a program, where pickles are run."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.canary),)


def of_pickle(content: bytes, chance: random.Random) -> bytes:
    """Another content of a torch file, saved by torch; or the pickle in its zip changed, the checksum right again."""
    import torch

    if zipfile.is_zipfile(io.BytesIO(content)) and chance.random() < 0.5:
        return _of_zip(content, chance)
    # Torch speaks of what is made here on purpose.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = torch.load(io.BytesIO(content), weights_only=True)
        kind = chance.randrange(12)
        if kind == 0:
            inner = chance.choice([one for one in (table, *table.values()) if isinstance(one, dict)])
            inner[chance.choice(("x", "state_dict", "name", 3))] = Attack("canary")
        elif kind == 1:
            table["self"] = table
        elif kind == 2:
            table[chance.choice(("x", "state_dict", "name"))] = deep(chance.choice((50, 150)))
        else:
            table = changed(table, chance, _other_tensor)
        out = io.BytesIO()
        try:
            torch.save(table, out, _use_new_zipfile_serialization=chance.random() < 0.7)
        except Exception:  # noqa: BLE001 - what torch cannot write is no case
            return of_bytes(content, chance)
    return out.getvalue()


def _of_zip(content: bytes, chance: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = old.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        chosen = chance.choice(pickles if pickles and chance.random() < 0.7 else names)
        for name in names:
            data = old.read(name)
            packed = zipfile.ZIP_DEFLATED if chance.random() < 0.05 else zipfile.ZIP_STORED
            if name == chosen:
                match chance.randrange(8):
                    case 0:
                        continue
                    case 1:
                        name = chance.choice(("../x", "/etc/x", f"{name}/x", "x" * 3000, "archive/data/99"))
                    case 2:
                        new.writestr(name, data)
                    case 3 if chance.random() < 0.3:
                        data, packed = bytes(50 << 20), zipfile.ZIP_DEFLATED
                    case _:
                        data = of_bytes(data, chance)
            new.writestr(name, data, packed)
    return out.getvalue()


# -------------------------------------------------------------------------------------------------------------- images


def of_png(content: bytes, chance: random.Random) -> bytes:
    """Chunks changed, repeated, moved, taken away, added; checksums right again."""
    chunks, at = [], 8
    while at < len(content):
        size, kind = struct.unpack(">I4s", content[at : at + 8])
        chunks.append([kind, content[at + 8 : at + 8 + size]])
        at += 12 + size
    for _ in range(chance.choice((1, 1, 2))):
        row = chance.randrange(len(chunks))
        match chance.randrange(8):
            case 0:
                size = struct.pack(
                    ">II", *(chance.choice((0, 1, 63, 9000, 20_000, 70_000, 2**31 - 1, 2**32 - 1)) for _ in "wh")
                )
                chunks[0][1] = size + chunks[0][1][8:]
            case 1:
                depth = bytes(chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255)) for _ in range(5))
                chunks[0][1] = chunks[0][1][:8] + depth
            case 2:
                del chunks[row]
            case 3:
                chunks.insert(chance.randrange(len(chunks)), [*chance.choice(chunks)])
            case 4:
                chunks.insert(
                    chance.randrange(1, len(chunks) + 1),
                    [
                        chance.choice(
                            (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"tRNS", b"PLTE", b"gAMA")
                        ),
                        text_chunk(chance),
                    ],
                )
            case 5:
                chunks[row][0] = chance.choice((b"tEXt", b"IDAT", b"IEND", b"PLTE", b"fdAT", b"\x00\x00\x00\x00"))
            case _:
                chunks[row][1] = of_bytes(chunks[row][1], chance)
        if not chunks:
            break
    made = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return content[:8] + made


def text_chunk(chance: random.Random) -> bytes:
    """What a text chunk may hold, well formed or not."""
    key = chance.choice((b"parameters", b"tsuika", b"XML:com.adobe.xmp", b"prompt", b"workflow", b"", b"x" * 100))
    text = chance.choice(
        (
            *(b"[" * 200_000, b'{"a":' * 100_000, b'{"prompt": 3}', b"[]", b"Steps: 1e999, Seed: nan, Size: 9x9x9"),
            *(b"\xff\xfe\x00", b"cat\nSteps: " + b"9" * 5000 + b", CFG scale: inf", bytes(100), b'Seed: "' * 5000),
            json.dumps(odd(chance)).encode(),
        )
    )
    forms = (
        key + b"\x00" + text,
        key + b"\x00\x00" + zlib.compress(text),
        key + b"\x00\x01\x00\x00\x00" + zlib.compress(text),
        key + b"\x00\x00\x00\x00\x00" + text,
        key + b"\x00\x00" + zlib.compress(bytes(64 << 20)) if chance.random() < 0.1 else text,
    )
    return chance.choice(forms)


BY_SUFFIX: dict[str, tuple[Mutation, ...]] = {
    **dict.fromkeys((".safetensors",), (of_safetensors, of_safetensors, of_bytes)),
    **dict.fromkeys((".pt", ".ckpt", ".bin", ".pth"), (of_pickle, of_pickle, of_bytes)),
    ".png": (of_png, of_png, of_bytes),
    **dict.fromkeys((".json", ".jsonl"), (of_json, of_json, of_text, of_bytes)),
    **dict.fromkeys(
        (".toml", ".txt", ".caption", ".csv", ".tsv", ".ndjson", ".yaml"), (of_text, of_text, of_text, of_bytes)
    ),
}


def mutated(path: Path, chance: random.Random) -> bytes:
    """Another content for a file, by its suffix; of a suffix not known, other bytes."""
    content = path.read_bytes()
    chosen = chance.choice(BY_SUFFIX.get(path.suffix, (of_bytes,)))
    try:
        return chosen(content, chance)
    # Of a file in which this kind of mutation finds nothing to change.
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError, struct.error):
        return of_bytes(content, chance)
