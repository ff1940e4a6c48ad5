"""Thousands of wrong files for every reader: `make campaign MINUTES=30`; some seconds of it in the plain suite.

SEED chooses the cases (printed; a function of it, the reader and the case's number), MINUTES how long it goes on, READERS
(separated by commas) which readers. `CASE="READER NUMBER"` runs one case again. What fails is kept under `build/campaign`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
import harness
import mutations
from samples import FILE, FOLDER, OUT, OWN, READY, Sample, Samples

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

SEED = int(os.environ.get("SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
MINUTES = float(os.environ.get("MINUTES", "30"))
READERS = [name for name in os.environ.get("READERS", "").split(",") if name]
APART, SLOW = 0.002, 0.08  # of the cases: in a process of their own; that draw or train


@pytest.fixture(scope="module")
def samples() -> Iterator[Samples]:
    # In memory where that is possible: a disk's time is not what is measured.
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="tsuika-", dir=shared if shared.is_dir() else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        place = Path(folder)
        patch.setenv("XDG_CACHE_HOME", str(place / "case" / "cache"))
        patch.setenv("HOME", str(place / "home"))
        patch.setenv("COLUMNS", "80")
        yield Samples(place)


def prepared(samples: Samples, sample: Sample, words: Sequence[str]) -> tuple[Path, list[str]]:
    """A case with the sample as it is, and its command."""
    place = harness.make(samples.place.parent / "case")
    to = place / ("out" if OWN in " ".join(words) else "in") / sample.path.name
    (shutil.copytree if sample.path.is_dir() else shutil.copy)(sample.path, to)
    told = {FILE: str(to), FOLDER: str(to.parent), OWN: str(to), OUT: str(place / "out"), READY: str(samples.ready)}
    whole = []
    for word in words:
        for name, path in told.items():
            word = word.replace(name, path)
        whole.append(word)
    return place, whole


def attempt(samples: Samples, reader: str, number: int, seed: int = SEED) -> tuple[list[str], str]:
    """One case of a reader: what is wrong with it, and how it was run."""
    chance = random.Random(f"{seed} {reader} {number}")
    sample = chance.choice(samples.of(reader))
    is_slow = bool(sample.slow) and chance.random() < SLOW
    words = chance.choice(sample.slow if is_slow else sample.words)
    place, whole = prepared(samples, sample, words)
    folder = place / ("out" if OWN in words else "in")
    where = folder / sample.path.name if sample.path.is_dir() else folder
    for name in chance.sample(files := sample.changeable(), min(len(files), chance.choice((1, 1, 1, 2)))):
        path = where / name
        if reader == "texts in images" and path.suffix != ".png":
            path = told_in_png(path, chance)
            whole = [word.replace(str(where / name), str(path)) for word in whole]
        elif chance.random() < 0.02:
            path.unlink()
            if chance.random() < 0.5:
                path.mkdir()
        else:
            path.write_bytes(mutations.mutated(path, chance))
    is_apart = chance.random() < APART
    wrong = harness.run_apart(place, whole) if is_apart else harness.run_here(place, whole)
    if wrong:
        again = f'SEED={seed} CASE="{reader} {number}" python -m pytest -m slow tests/campaign'
        name = f"{reader.replace(' ', '-')}-{seed}-{number}"
        print(f"\n{harness.keep(place, name, whole, wrong, again)}: {'; '.join(wrong)[:600]}", flush=True)
    return wrong, "apart" if is_apart else "slow" if is_slow else "quick"


def told_in_png(path: Path, chance: random.Random) -> Path:
    """An image in which the changed text stands, as a program would have put it there."""
    from PIL import Image, PngImagePlugin

    content = mutations.mutated(path, chance).decode("utf-8", "replace")
    info = PngImagePlugin.PngInfo()
    key = "parameters" if path.suffix == ".txt" else "tsuika"
    (info.add_itxt if chance.random() < 0.5 else info.add_text)(
        key, content.replace("\x00", ""), zip=chance.random() < 0.5
    )
    path.unlink()
    Image.new("RGB", (64, 64)).save(path.with_suffix(".png"), pnginfo=info)
    return path.with_suffix(".png")


def valid(samples: Samples, readers: Sequence[str]) -> None:
    """What is not changed is read; and everything that this needs is imported, so that cases are measured alone."""
    for reader in readers:
        for sample in samples.of(reader):
            for words in (*sample.words, *sample.slow):
                place, whole = prepared(samples, sample, words)
                wrong = [one for one in harness.run_here(place, whole) if "subprocess" not in one and "MiB" not in one]
                assert not wrong, (reader, words, wrong)


def test_some_cases_of_the_quick_readers(samples: Samples) -> None:
    failed = {}
    for reader in ("safetensors", "embeddings", "hypernetworks", "texts in images", "recipes"):
        for number in range(12):
            wrong, _how = attempt(samples, reader, number, seed=1)  # the same cases every time
            if wrong:
                failed[f"{reader} {number}"] = wrong
    assert not failed


@pytest.mark.slow
def test_campaign(samples: Samples) -> None:
    if one := os.environ.get("CASE"):
        reader, _, number = one.rpartition(" ")
        assert not attempt(samples, reader, int(number))[0]
        return
    readers = READERS or list(samples.readers)
    print(f"SEED={SEED}, valid files first", flush=True)
    valid(samples, readers)
    ends = time.monotonic() + MINUTES * 60
    done: dict[str, Counter[str]] = {reader: Counter() for reader in readers}
    spent = dict.fromkeys(readers, 0.0)
    failed: list[str] = []
    while time.monotonic() < ends:
        # Every reader gets the same time.
        reader = min(readers, key=spent.__getitem__)
        began = time.monotonic()
        number = sum(done[reader][how] for how in ("quick", "slow", "apart"))
        wrong, how = attempt(samples, reader, number)
        done[reader][how] += 1
        spent[reader] += time.monotonic() - began
        if wrong:
            done[reader]["failed"] += 1
            failed.append(f"{reader} {number}")
    table = {reader: dict(counts) for reader, counts in done.items()}
    harness.KEPT.mkdir(parents=True, exist_ok=True)
    (harness.KEPT / f"{SEED}.json").write_text(json.dumps({"seed": SEED, "cases": table, "failed": failed}, indent=1))
    print(f"\nSEED={SEED} {json.dumps(table, indent=1)}")
    assert not failed, f"SEED={SEED}: {failed}"
