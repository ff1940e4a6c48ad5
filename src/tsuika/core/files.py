"""The one place that changes the disk: files and folders are written whole or not at all, and nothing is overwritten
unasked. Whoever keeps something calls these as `files.NAME`: tests record what a run does to the disk by standing in
for them."""

from __future__ import annotations

import errno
import hashlib
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final

from tsuika.core import names
from tsuika.core.errors import RecipeError, ResourceError, outer_cause
from tsuika.core.texts import Text, _

# Of names that are being written: left behind by a process that was killed, and in the way of nothing.
TEMPORARY: Final = ".*.tmp"
_CLOCK_SECONDS: Final = 3.0
# A flush that a file system does not know for folders.
_NO_FLUSH: Final = frozenset({errno.EINVAL, errno.EACCES, errno.EBADF, errno.ENOTSUP})


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder, for a file or a folder; it becomes `path` if the block ends without an
    error. It is on the disk, and so is its name, before the block is left: a power cut leaves the old or the new. A
    file at `path` is replaced, a folder only where it is empty. Folders that are made for it go again with an error.
    Raises TsuikaError: the disk is full, the folder is not writable, ... (`outer_cause`)."""
    temporary = path.with_name(f".{names.shortened(path.name, 200)}.{os.getpid()}.tmp")
    made: list[Path] = []
    try:
        made = make_folder(path.parent)
        yield temporary
        flush_tree(temporary)
        rename(temporary, path)
        made = []
    except Exception as error:
        if (ours := outer_cause(error, where=path, instead_of=temporary)) is not None:
            raise ours from error
        raise
    finally:
        with suppress(OSError):
            remove(temporary)
            for one in made:
                one.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all; what is no Unicode (in the name of a file) is escaped."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def append(path: Path, line: str) -> None:
    """Add a line to a file, to be lost at most by a power cut; one that was cut short before is left a line of its own.
    Raises TsuikaError: as `whole`."""
    try:
        with path.open("a+b") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                begin = b"" if stream.read(1) == b"\n" else b"\n"
            else:
                begin = b""
            stream.write(begin + line.encode("utf-8", "backslashreplace") + b"\n")
    except OSError as error:
        raise outer_cause(error, where=path) or error from None


def make_folder(path: Path) -> list[Path]:
    """Make a folder, and those above it, where there is none; returns those that were made, the innermost first."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for one in missing:
        flush(one.parent)
    return missing


def rename(old: Path, new: Path) -> None:
    """Give a file or folder its name."""
    old.replace(new)
    flush(new.parent)


def remove(path: Path) -> None:
    """Delete a file, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Have the disk write a file, or the names in a folder, now."""
    is_folder = path.is_dir()
    if os.name == "nt" and is_folder:
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder or error.errno not in _NO_FLUSH:
            raise
    finally:
        os.close(handle)


def flush_tree(path: Path) -> None:
    """The same for a folder with all that is in it."""
    for inner in path.iterdir() if path.is_dir() else ():
        flush_tree(inner)
    flush(path)


def check_out(out: Path, *originals: Path, overwrite: bool | None = None, suffix: str = "") -> None:
    """Make sure that a command may write `out`, a file or folder, before it works for minutes: nothing is there, or
    with `overwrite` a file that is none of the `originals`, and the name ends in `suffix`. None: nothing is ever replaced
    there. Raises RecipeError: it
    exists and may not be overwritten, or is itself an original (RC007); another suffix is needed (RC005); no file can
    have this name (RC028); ResourceError: nothing can be written there (RS003)."""
    if suffix and out.suffix.lower() != suffix:
        found = _("An --out that ends in {suffix}", suffix=suffix)
        do = _("For example: --out {name}", name=f"{out.stem}{suffix}")
        raise RecipeError("RC005", found=found, do=do)
    check_place(out)
    there = os.path.lexists(out)
    is_original = out.exists() and any(path.exists() and out.samefile(path) for path in originals)
    if there and (out.is_dir() or not overwrite or is_original):
        if is_original:
            do = _("It is one of the files that are read, which are never changed: choose another --out.")
        else:
            can_be = overwrite is not None and not out.is_dir()
            do = _("Choose another --out, or add --overwrite.") if can_be else _("Choose another --out.")
        raise RecipeError("RC007", where=out, do=do)


def unused(folder: Path, stem: str, suffix: str) -> Path:
    """A path in a folder that nothing has yet: `STEM.SUFFIX`, else with a number behind the stem, from 2."""
    names_ = (f"{stem}{f'-{number}' if number > 1 else ''}{suffix}" for number in count(1))
    return next(path for path in map(folder.joinpath, names_) if not path.exists())


def check_place(path: Path, *, is_folder: bool = False) -> None:
    """Make sure that something of this name could be written, or be written into if it `is_folder`, where a file of
    that name is in the way. Raises RecipeError: no file can have this name, or a part of the path is a file (RC028);
    ResourceError: there is no permission (RS003)."""
    if (why := names.refused(path)) is not None:
        raise RecipeError("RC028", where=path, why=why)
    try:
        parts = (path, *path.absolute().parents)
        above = next(one for one in parts if one.is_dir() or ((is_folder or one != path) and os.path.lexists(one)))
    except OSError as error:
        raise outer_cause(error, where=path) or error from None
    if not above.is_dir():
        raise RecipeError("RC028", where=path, why=_("{file} is a file, not a folder.", file=above))
    if not os.access(above, os.W_OK | os.X_OK):
        raise ResourceError("RS003", where=above, why=_("Nothing can be written into this folder."))


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a file, made if need be, for this process alone; it is free again when the block, or the process, ends,
    however it ends. Who holds it is written into it (`holder`). Yields whether it is held: False where another process
    holds it and we do not `wait`."""
    import socket

    from filelock import lock_descriptor

    make_folder(path.parent)
    # Without a buffer, so that nothing is left to be written when it is closed.
    with path.open("a+b", buffering=0) as stream:
        try:
            held = lock_descriptor(stream.fileno(), blocking=wait)
        except OSError as error:
            # A network's file system without locks: as if we were alone, which nobody can find out.
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
                raise
            held = True
        if held:
            began = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            # A full disk is told by whoever has something to write.
            with suppress(OSError):
                stream.truncate(0)
                # Windows lets nobody read the first byte of a held file.
                stream.write(f" {os.getpid()}\t{socket.gethostname()}\t{began}".encode())
        yield held


def is_locked(path: Path) -> bool:
    """Whether another process holds a lock; nothing is written."""
    from filelock import lock_descriptor

    try:
        with path.open("rb+") as stream:
            return not lock_descriptor(stream.fileno(), blocking=False)
    except OSError:
        return False


def holder(path: Path) -> Text:
    """Who holds a lock, in words."""
    try:
        with path.open("rb") as stream:
            stream.seek(1)
            process, machine, began = stream.read(500).decode("utf-8", "replace").split("\t")
    except (OSError, ValueError):
        return _("It cannot be told which one.")
    return _("It is process {process} on {machine}, since {began}.", process=process, machine=machine, began=began)


def at_home(path: str | Path) -> Path:
    """A path with `~` and `~name` filled in, as far as there is such a home. Shells leave it in `--out=~/x`."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def kept_sha256(path: Path, folder: Path | None) -> str:
    """The same, kept in a folder for as long as the file has this path, size and time of change; None keeps nothing."""
    if folder is None:
        return sha256(path)
    place = folder / f"{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}.txt"
    said, began = path.stat(), time.time()
    stamp = f"{said.st_ino} {said.st_size} {said.st_mtime_ns} {said.st_ctime_ns}"
    with suppress(OSError, ValueError):
        known, digest = place.read_text(encoding="utf-8").rsplit(" ", 1)
        if known == stamp and len(digest) == 64:
            return digest
    digest = sha256(path)
    # A file that was just changed may be changed again within what its clock can tell.
    if began - max(said.st_mtime, said.st_ctime) > _CLOCK_SECONDS:
        with suppress(ResourceError, RecipeError):
            write_text(place, f"{stamp} {digest}")
    return digest


def split_strength(text: str) -> tuple[Path, float]:
    """`FILE` or `FILE:STRENGTH` (a Windows drive's colon is not one); the strength is 1 by default. Raises RecipeError:
    the strength is no finite number (RC002)."""
    head, colon, tail = text.rpartition(":")
    try:
        path, strength = (at_home(head), float(tail)) if colon and not at_home(text).exists() else (at_home(text), 1.0)
    except ValueError:
        return at_home(text), 1.0
    if not math.isfinite(strength):
        raise RecipeError("RC002", key="strength", found=text, why="0.8, 1, -0.5, …")
    return path, strength
