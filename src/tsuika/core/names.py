"""Names of files: what every system takes, and what an odd name becomes. Knows no folder."""

from __future__ import annotations

import re
import unicodedata
from hashlib import sha256
from pathlib import Path
from typing import Final

from tsuika.core.texts import Text, _

# Bytes of a name in UTF-8 that every file system takes (ext4, APFS, NTFS: 255), and what a result's own name may take of
# them: `-likeness.safetensors`, a temporary name and a copy's ending must still fit.
MOST_BYTES: Final = 255
STEM_BYTES: Final = 180
# Source: Microsoft, "Naming Files, Paths, and Namespaces".
_FORBIDDEN: Final = '<>:"/\\|?*'
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?", re.IGNORECASE)


def fault_of(name: str) -> Text | None:
    """Why a text cannot be the name of a result's file on every system, before its ending; None where it can."""
    if any(unicodedata.category(one) in ("Cc", "Cs") or one in _FORBIDDEN for one in name):
        return _(
            "It is a name, not a path: without {forbidden} and control characters.", forbidden=" ".join(_FORBIDDEN)
        )
    if name != name.strip() or name.endswith(".") or name.startswith("."):
        return _("A name does not begin or end with a space or a dot.")
    if _DEVICES.fullmatch(name):
        return _("Windows keeps this name for a device.")
    if len(name.encode()) > STEM_BYTES:
        return _("It may take {most} bytes at most, and takes {found}.", most=STEM_BYTES, found=len(name.encode()))
    return None


def stem_of(text: str) -> str:
    """A name like this one that `fault_of` has nothing against: the name of a folder, for its result's file. What a
    name cannot hold becomes `_`; of a long name the beginning stays, with a few digits that tell it from others."""
    held = "".join("_" if unicodedata.category(one) in ("Cc", "Cs") or one in _FORBIDDEN else one for one in text)
    held = held.strip(" .") or "result"
    held = f"_{held}" if _DEVICES.fullmatch(held) else held
    return shortened(held, STEM_BYTES)


def shortened(name: str, most: int) -> str:
    """A name of at most so many bytes in UTF-8, cut between characters."""
    raw = name.encode("utf-8", "surrogateescape")
    if len(raw) <= most:
        return name
    mark = f"~{sha256(raw).hexdigest()[:8]}"
    return raw[: most - len(mark)].decode("utf-8", "ignore") + mark


def is_unicode(path: Path) -> bool:
    """Whether a path is text; the safetensors library opens no other."""
    return not any("\ud800" <= one <= "\udfff" for one in str(path))


def refused(path: Path) -> Text | None:
    """Why no file can have this path; None where one can."""
    if "\0" in str(path):
        return _("There is a character in it that no name can hold.")
    for part in path.parts:
        if len(part.encode("utf-8", "surrogateescape")) > MOST_BYTES:
            return _("A name may take {most} bytes at most: {name}", most=MOST_BYTES, name=part)
    return None
