"""A sheet of images with labelled rows and columns, in a font that can show the labels (Pillow's own knows Latin only)."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tsuika.core.events import Warned, note
from tsuika.core.files import at_home

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

FONT_PX = 15
GAP_PX = 4
PAD_PX = 6
VIEW_PX = 160  # small images are enlarged by whole numbers up to about this
MOST_ZOOM = 4
_NOWHERE = "\U0010ffff"  # no font has it: what is drawn for it is what stands for a missing character

# Beginnings of file names of fonts with kana and kanji, best first.
_CJK_NAMES = (
    *("notosanscjk", "notosansjp", "notosansmonocjk", "sourcehansans", "ipaex", "ipag", "ipam", "takao"),
    *("vl-gothic", "vl-pgothic", "biz-ud", "yugoth", "meiryo", "msgothic", "hiragino", "ヒラギノ", "mplus"),
    *("notoserifcjk", "notoserifjp", "arial unicode", "arialuni", "droidsansfallback", "wqy", "unifont"),
    *("msyh", "malgun"),
)


def grid(
    images: Sequence[Image.Image | None],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
    *,
    fonts: Sequence[Path] | None = None,
) -> tuple[Image.Image, list[Warned]]:
    """One RGB image of all, and warnings.

    `images` go row by row, one for each (row, column), else ValueError; None leaves a cell empty. Small ones are enlarged
    without smoothing. `fonts` are the font files to choose from, the machine's own by default.
    """
    if len(images) != len(rows) * len(columns) or not images:
        raise ValueError(f"{len(images)} images for {len(rows)} rows x {len(columns)} columns")
    font, warnings = choose_font([title, *rows, *columns], fonts)
    shown = [None if image is None else _enlarged(image) for image in images]
    cell_width = max((image.width for image in shown if image), default=VIEW_PX)
    cell_height = max((image.height for image in shown if image), default=VIEW_PX)

    column_labels = [_wrap(label, font, cell_width) for label in columns]
    row_labels = [_wrap(label, font, max(cell_width, VIEW_PX)) for label in rows]
    gutter = max(_size(label, font)[0] for label in row_labels)
    gutter += 2 * PAD_PX if gutter else 0
    width = gutter + len(columns) * (cell_width + GAP_PX) + GAP_PX
    title_label = _wrap(title, font, width - 2 * PAD_PX)
    title_height = _size(title_label, font)[1] + 2 * PAD_PX if title else 0
    header = max(_size(label, font)[1] for label in column_labels)
    header += 2 * PAD_PX if header else 0
    heights = [max(cell_height, _size(label, font)[1]) for label in row_labels]
    height = title_height + header + sum(heights) + GAP_PX * (len(rows) + 1)

    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)

    def write(label: str, x: float, y: float) -> None:
        label_width, label_height = _size(label, font)
        place = (x - label_width / 2, y - label_height / 2)
        draw.multiline_text(place, label, fill="black", font=font.font, align="center", spacing=GAP_PX)

    write(title_label, width / 2, title_height / 2)
    for number, label in enumerate(column_labels):
        x = gutter + GAP_PX + number * (cell_width + GAP_PX)
        write(label, x + cell_width / 2, title_height + header / 2)
    top = title_height + header + GAP_PX
    for row, (label, row_height) in enumerate(zip(row_labels, heights)):
        write(label, gutter / 2, top + row_height / 2)
        for column in range(len(columns)):
            image = shown[row * len(columns) + column]
            if image:
                left = gutter + GAP_PX + column * (cell_width + GAP_PX)
                place = left + (cell_width - image.width) // 2, top + (row_height - image.height) // 2
                sheet.paste(image, place)
        top += row_height + GAP_PX
    return sheet, warnings


def stack(sheets: Sequence[Image.Image]) -> Image.Image:
    """Sheets of one size as one image: side by side if they are tall, else one below the other."""
    width, height = max(sheet.width for sheet in sheets), max(sheet.height for sheet in sheets)
    across = height > width
    whole = Image.new("RGB", (width * len(sheets), height) if across else (width, height * len(sheets)), "white")
    for number, sheet in enumerate(sheets):
        whole.paste(sheet, (number * width, 0) if across else (0, number * height))
    return whole


def _enlarged(image: Image.Image) -> Image.Image:
    zoom = min(MOST_ZOOM, max(1, math.floor(VIEW_PX / max(image.size) + 0.5)))
    return image.convert("RGB").resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


class _Speller:
    def __init__(self, font: Font, lacks: frozenset[str]) -> None:
        self.font, self.lacks = font, lacks

    def spell(self, text: str) -> str:
        return "".join(spelt(character) if character in self.lacks else character for character in text)


def choose_font(labels: Iterable[str], fonts: Sequence[Path] | None = None) -> tuple[_Speller, list[Warned]]:
    """The first font that can show every character, else the one that lacks fewest, with a warning that says so."""
    characters = {character for label in labels for character in label if not character.isspace()}
    best: Font = ImageFont.load_default(FONT_PX)
    lacks = _lacking(best, characters)
    for path in (machine_fonts() if fonts is None else fonts) if lacks else ():
        try:
            font = ImageFont.FreeTypeFont(path, FONT_PX)  # truetype() would look elsewhere for the name
        except OSError:  # a damaged or bitmap-only font is not ours to repair
            continue
        missing = _lacking(font, characters)
        if len(missing) < len(lacks):
            best, lacks = font, missing
        if not lacks:
            break
    warnings = [note("GN001", missing="".join(sorted(lacks))[:40])] if lacks else []
    return _Speller(best, frozenset(lacks)), warnings


def _lacking(font: Font, characters: Iterable[str]) -> set[str]:
    nothing = _drawn(font, _NOWHERE)
    return {character for character in characters if _drawn(font, character) in (nothing, None)}


def _drawn(font: Font, character: str) -> tuple[tuple[int, int], bytes] | None:
    """Size and pixels of a character; None where nothing is drawn."""
    mask = font.getmask(character, mode="L")
    pixels = bytes(mask)
    return (mask.size, pixels) if any(pixels) else None


def machine_fonts() -> list[Path]:
    """Font files of this machine in their usual places on Linux, macOS and Windows, those for Japanese first."""
    shared = "/usr/share/fonts", "/usr/local/share/fonts", "/System/Library/Fonts", "/Library/Fonts", "C:/Windows/Fonts"
    own = ".local/share/fonts", ".fonts", "Library/Fonts", "AppData/Local/Microsoft/Windows/Fonts"
    folders = (*map(Path, shared), *map(at_home("~").joinpath, own))
    found = (path for folder in folders for path in folder.rglob("*"))
    files = [path for path in found if path.suffix.lower() in (".ttf", ".ttc", ".otf")]

    def rank(path: Path) -> tuple[int, bool, str]:
        name = unicodedata.normalize("NFC", path.name).lower()
        place = next((n for n, start in enumerate(_CJK_NAMES) if name.startswith(start)), len(_CJK_NAMES))
        return place, "regular" not in name, name

    return sorted(files, key=rank)


def spelt(character: str) -> str:
    """A character in ASCII: the sound of a kana, the code point of anything else."""
    name = unicodedata.name(character, "")
    if name.startswith(("HIRAGANA LETTER ", "KATAKANA LETTER ")):
        return name.split()[-1].lower()
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or f"U+{ord(character):04X}"


def _wrap(label: str, speller: _Speller, width: int) -> str:
    """Break into lines no wider than `width` px: at spaces where they are, anywhere in a word that is too long."""
    lines: list[str] = []
    for paragraph in speller.spell(label).split("\n"):
        line = ""
        for character in paragraph:
            if line and speller.font.getlength(line + character) > width:
                head, space, tail = line.rpartition(" ")
                lines.append(head if space and head else line)
                line = tail if space and head else ""
            line = (line + character) if line or not character.isspace() else line
        lines.append(line)
    return "\n".join(lines).strip("\n")


def _size(label: str, speller: _Speller) -> tuple[int, int]:
    if not label:
        return 0, 0
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    box = draw.multiline_textbbox((0, 0), label, font=speller.font, spacing=GAP_PX)
    return math.ceil(box[2]), math.ceil(box[3])
