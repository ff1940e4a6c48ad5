"""Files that are written whole or not at all, what may be written, locks, and names that every system takes."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tsuika.core import files, kept, names
from tsuika.core.errors import FormatError, RecipeError, ResourceError, TsuikaError, outer_cause


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.txt"
    files.write_text(file, "first")
    with pytest.raises(KeyError), files.whole(file) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert file.read_text() == "first"
    files.write_text(file, "second")
    assert file.read_text() == "second"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    with pytest.raises(KeyError), files.whole(tmp_path / "a") as temporary:
        (temporary / "b").mkdir(parents=True)
        raise KeyError
    assert not list(tmp_path.iterdir())
    with files.whole(tmp_path / "a") as temporary:
        (temporary / "b").mkdir(parents=True)
        (temporary / "b" / "c").write_text("x")
    assert (tmp_path / "a" / "b" / "c").read_text() == "x"


def test_names_and_contents_are_flushed_before_they_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this order: the content, the name, the folder that the name is in, and the folder that this is in."""
    done: list[tuple[str, str]] = []
    flush, rename = files.flush, files.rename
    monkeypatch.setattr(files, "flush", lambda path: (done.append(("flush", path.name)), flush(path)))
    monkeypatch.setattr(files, "rename", lambda old, new: (done.append(("rename", new.name)), rename(old, new)))
    files.write_text(tmp_path / "new" / "a.txt", "x")
    above, content, name, folder = done
    assert above == ("flush", tmp_path.name) and name == ("rename", "a.txt") and folder == ("flush", "new")
    assert content[0] == "flush" and content[1].endswith(".tmp")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "RS002"),
        (errno.EDQUOT, "RS002"),
        (errno.EFBIG, "RS002"),
        (errno.EROFS, "RS003"),
        (errno.EACCES, "RS003"),
        (errno.EIO, "RS004"),
        (errno.ENAMETOOLONG, "RC028"),
        (errno.ENOMEM, "RS001"),
    ],
)
def test_what_the_system_refuses_names_the_file(number: int, code: str, tmp_path: Path) -> None:
    with pytest.raises(TsuikaError) as refused, files.whole(tmp_path / "a.txt") as temporary:
        raise OSError(number, os.strerror(number), str(temporary))
    assert (refused.value.code, refused.value.where) == (code, str(tmp_path / "a.txt"))
    assert 2 <= refused.value.exit_status <= 7


@pytest.mark.parametrize("kind", ["a copy", "a file in a folder", "a folder that is copied"])
def test_of_a_copy_the_file_that_is_written_is_named(kind: str, tmp_path: Path) -> None:
    """Not the one that is read, and none of a temporary name."""
    full, words = errno.ENOSPC, os.strerror(errno.ENOSPC)
    with pytest.raises(ResourceError) as refused, files.whole(tmp_path / "new" / "below" / "a") as temporary:
        if kind == "a copy":
            raise OSError(full, words, str(tmp_path / "source"), None, str(temporary))
        if kind == "a file in a folder":
            raise OSError(full, words, str(temporary / "b"))
        raise shutil.Error([(str(tmp_path / "source"), str(temporary / "b"), str(OSError(full, words, "source")))])
    assert (refused.value.code, refused.value.where) == ("RS002", str(tmp_path / "new" / "below" / "a"))
    # Folders that were made for it are gone, too.
    assert not list(tmp_path.iterdir())


def test_a_library_that_fails_to_write_names_the_file_too(tmp_path: Path) -> None:
    """The safetensors library wraps the system's error in its own."""
    import torch
    from safetensors.torch import save_file

    with pytest.raises(ResourceError) as refused, files.whole(tmp_path / "a") as temporary:
        save_file({"a": torch.zeros(1)}, temporary / "no" / "such" / "folder")
    assert (refused.value.code, refused.value.where) == ("RS004", str(tmp_path / "a"))


def test_an_error_of_our_own_stays_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no number"), files.whole(tmp_path / "a.txt"):
        raise OSError("no number")


def test_lines_are_added_after_a_line_that_was_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    files.append(file, "1")
    file.write_bytes(file.read_bytes() + b'{"half')
    files.append(file, "2")
    assert file.read_text().splitlines() == ["1", '{"half', "2"]


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    file, link, folder = tmp_path / "a.png", tmp_path / "link.png", tmp_path / "folder"
    file.write_text("x")
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    for path in (file, link, folder):
        with pytest.raises(RecipeError) as there:
            files.check_out(path)
        assert there.value.code == "RC007"
    files.check_out(file, overwrite=True)
    for path, originals in ((folder, ()), (file, (file,))):
        with pytest.raises(RecipeError):
            files.check_out(path, *originals, overwrite=True)
    files.check_out(tmp_path / "new" / "a.png")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["a\0b", "x" * 256, "猫" * 86])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        files.check_out(tmp_path / name / "a.png")
    assert refused.value.code == "RC028"


def test_the_longest_name_is_that_of_the_usual_file_systems() -> None:
    """255 bytes on ext4, APFS and NTFS; the error says which part of a path is longer."""
    longest, longer = "猫" * 85, "猫" * 85 + "x"
    assert len(longest.encode()) == 255 and names.refused(Path("a", longest, "b")) is None
    assert longer in (names.refused(Path("a", longer, "b")) or "")


def test_a_part_of_the_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(RecipeError) as refused:
        files.check_out(tmp_path / "a" / "b" / "c.png")
    assert refused.value.code == "RC028"
    assert refused.value.part("why") == f"{tmp_path / 'a'} is a file, not a folder."


@pytest.mark.parametrize("leads_to", ["loop", "nowhere"])
def test_a_link_that_leads_nowhere_is_no_place(leads_to: str, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / leads_to)
    for check in (files.check_out, files.check_place):
        with pytest.raises(RecipeError) as refused:
            check(tmp_path / "loop" / "a.png")
        assert refused.value.code == "RC028"


def test_links_in_a_circle_are_no_fault_of_the_program(tmp_path: Path) -> None:
    """`resolve` raises a RuntimeError before Python 3.13, a system error from then on."""
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for raised in ((tmp_path / "loop").resolve, lambda: (tmp_path / "loop").resolve(strict=True)):
        try:
            raised()
        except (RuntimeError, OSError) as error:
            ours = outer_cause(error)
            assert ours is not None and ours.code == "RC028"


def test_a_folder_that_cannot_be_written_into_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(ResourceError) as refused:
        files.check_out(tmp_path / "new" / "a.png")
    assert (refused.value.code, refused.value.where) == ("RS003", str(tmp_path))


def test_a_place_that_may_not_be_looked_at_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(ResourceError) as refused:
        files.check_place(tmp_path / "a")
    assert (refused.value.code, refused.value.where) == ("RS003", str(tmp_path / "a"))


HOLD = """
import sys
from pathlib import Path
from tsuika.core import files
with files.locked(Path(sys.argv[1])) as held:
    print(held, flush=True)
    sys.stdin.read()
"""


def test_a_lock_says_who_holds_it_and_ends_with_its_process(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        with files.locked(lock) as held:
            assert not held
        assert str(other.pid) in files.holder(lock)
        other.kill()
    with files.locked(lock) as held:
        assert held and str(os.getpid()) in files.holder(lock)


def test_what_is_kept_is_read_as_it_was_written_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content in ({"step": 3, "names": ["ä", "\udc83"]}, [1, None, {"a": 0.1}]):
        kept.write(file, content)
        assert kept.read(file, lambda value: value) == content
    text = file.read_text()
    for wrong in (text.replace("0.1", "0.2"), text[:-9], "", "[]", "null", "[" * 10_000, '{"items": []}', "\0"):
        file.write_text(wrong)
        with pytest.raises(FormatError) as refused:
            kept.read(file, lambda value: value)
        assert (refused.value.code, refused.value.where) == ("TR011", str(file))


def test_what_a_kept_value_cannot_be_is_refused(tmp_path: Path) -> None:
    kept.write(tmp_path / "a.json", {"a": 1})
    for build in (lambda value: value["b"], lambda value: int("x"), lambda value: value + 1, lambda value: value.b):
        with pytest.raises(FormatError):
            kept.read(tmp_path / "a.json", build)


@pytest.mark.parametrize(
    "name", ["mascot", "ついか犬", "a b", "v1.5", "[v2]", "[b]", "-", "100%", "console", "x" * 180]
)
def test_names_that_are_names(name: str) -> None:
    assert names.fault_of(name) is None
    assert names.stem_of(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "../a",
        "/a",
        "..",
        ".",
        "a/b",
        "a\\b",
        "a\x00b",
        "a\nb",
        "\x1b[31m",
        "a:b",
        "a*",
        "?",
        "CON",
        "con.txt",
        "nul",
        "COM1",
        "lpt9.x",
        "a.",
        " a",
        "a ",
        ".a",
        "x" * 181,
        "猫" * 80,
        "\udc83",
        "😀" * 60,
    ],
)
def test_names_that_are_none_and_what_becomes_of_them(name: str) -> None:
    assert names.fault_of(name) is not None
    stem = names.stem_of(name)
    assert stem and names.fault_of(stem) is None


def test_long_names_stay_different(tmp_path: Path) -> None:
    stems = {names.stem_of("猫" * 80 + end) for end in ("", "a", "b")}
    assert len(stems) == 3
    for stem in stems:
        (tmp_path / f".{stem}-likeness.safetensors.1234567.tmp").touch()


def test_a_kept_hash_is_that_of_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, kept, asked = tmp_path / "base", tmp_path / "kept", []
    plain = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: asked.append(path) or plain(path))

    def age() -> None:
        monkeypatch.setattr(files, "_CLOCK_SECONDS", -1.0)

    file.write_bytes(b"one")
    for _ in range(2):  # it was only just written
        assert files.kept_sha256(file, kept) == plain(file)
    assert len(asked) == 2 and not kept.exists()
    age()
    for _ in range(3):
        assert files.kept_sha256(file, kept) == plain(file)
    assert len(asked) == 3
    was = file.stat()
    file.write_bytes(b"two")  # of the same size, and said to be as old
    os.utime(file, ns=(was.st_atime_ns, was.st_mtime_ns))
    assert files.kept_sha256(file, kept) == plain(file) and len(asked) == 4
    for place in kept.iterdir():
        place.write_bytes(b"\xff damaged")
    assert files.kept_sha256(file, kept) == files.kept_sha256(file, None) == plain(file) and len(asked) == 6
