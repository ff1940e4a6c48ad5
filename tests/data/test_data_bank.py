"""Cache and bank: the same bits cached or fresh, every picture equally often, any step at any time."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tsuika.core import files
from tsuika.core.errors import ModelError, ResourceError, TsuikaError
from tsuika.core.events import Event, Progress, Warned, drained
from tsuika.core.files import sha256
from tsuika.core.sections import Data
from tsuika.data.augment import Transform, variants
from tsuika.data.bank import Bank, BucketLatents, fill
from tsuika.data.bucket import assign
from tsuika.data.cache import key_of
from tsuika.data.manifest import Sample
from tsuika.data.scan import scan

CPU = torch.device("cpu")
CONFIG = Data(trigger="sks", class_word="dog", flip=True, crop=0.7, colour=0.1, variants=3, caption_dropout=0.0)
PHOTOS = Path(__file__).parents[3] / "shared" / "data" / "photos" / "cat2"


def encoder() -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """A small convolution with 4 pixels a latent, and how often it was called."""
    weight = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0)) / 7
    calls: list[int] = []

    def encode(pixels_B3HW: Tensor) -> Tensor:
        assert pixels_B3HW.shape[0] == 1
        calls.append(1)
        return torch.nn.functional.conv2d(pixels_B3HW, weight, stride=4)

    return encode, calls


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    place = tmp_path / "学習 画像"
    place.mkdir()
    for i, (width, height) in enumerate([(64, 64), (80, 80), (64, 40), (70, 44), (40, 70)]):
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(place / f"絵{i}.png")
    (place / "絵1.txt").write_bytes("sks, 赤, 青".encode("cp932"))
    return place


def build(
    place: Path, cache: Path | None, config: Data = CONFIG, **more: object
) -> tuple[Bank, list[Event], list[int]]:
    encode, calls = encoder()
    manifest = scan(place, config, size_px=32)
    buckets = assign(manifest, size_px=32, step_px=8)
    options: dict[str, object] = {"vae": "v1/fp32", "scale": 0.5, "folder": cache, "device": CPU, **more}
    events: list[Event] = []
    stream = fill(buckets, config, encode, **options)  # type: ignore[arg-type]
    while True:
        try:
            events.append(next(stream))
        except StopIteration as stop:
            return stop.value, events, calls


def same(one: Bank, other: Bank) -> bool:
    return all(
        a.samples == b.samples and torch.equal(torch.stack(a.latents_NVCHW), torch.stack(b.latents_NVCHW))
        for a, b in zip(one.buckets, other.buckets, strict=True)
    )


def test_cached_is_fresh_bit_for_bit(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    uncached, events, calls = build(folder, None)
    assert len(calls) == 5 * 3
    assert events == [Progress("encode", i, 5) for i in range(6)]
    first, _, calls = build(folder, cache)
    assert len(calls) == 15
    second, events, calls = build(folder, cache)
    assert not calls and not any(isinstance(event, Warned) for event in events)
    assert same(uncached, first) and same(first, second)
    assert len(list(cache.glob("*.safetensors"))) == 5
    assert not [path for path in cache.iterdir() if path.suffix == ".tmp"]
    _, _, calls = build(folder, cache, CONFIG.model_copy(update={"cache": False}))
    assert len(calls) == 15


def test_latents_do_not_depend_on_company(folder: Path, tmp_path: Path) -> None:
    everything, _, _ = build(folder, None)
    (folder / "絵0.png").unlink()
    fewer, _, _ = build(folder, None)
    latents = {s.name: shelf.latents_NVCHW[i] for shelf in everything.buckets for i, s in enumerate(shelf.samples)}
    for shelf in fewer.buckets:
        for i, sample in enumerate(shelf.samples):
            assert torch.equal(shelf.latents_NVCHW[i], latents[sample.name])


def test_damaged_entries_are_encoded_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    good, _, _ = build(folder, None)
    build(folder, cache)
    entries = sorted(cache.glob("*.safetensors"))
    whole = entries[0].read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    entries[0].write_bytes(flipped)
    entries[1].write_bytes(whole[: len(whole) // 2])
    entries[2].write_bytes(b"")
    entries[3].write_bytes(whole)  # another picture's
    again, events, calls = build(folder, cache)
    assert len(calls) == 4 * 3
    assert [event.code for event in events if isinstance(event, Warned)] == ["DS009"] * 4
    assert same(good, again)
    assert not build(folder, cache)[2]
    _, events, calls = build(folder, cache, scale=0.25)
    assert len(calls) == 15 and sum(isinstance(e, Warned) and "latent scale" in e.message for e in events) == 5


def test_key_covers_everything(folder: Path) -> None:
    sample = scan(folder, CONFIG).samples[0]
    plain = (Transform(),)
    keys = {key_of(sample, "v", (32, 32), plain)}
    keys.add(key_of(sample, "w", (32, 32), plain))
    keys.add(key_of(sample, "v", (32, 40), plain))
    for change in (
        {"flip": True},
        {"scale": 0.9},
        {"x": 0.4},
        {"y": 0.4},
        {"angle_deg": 1e-9},
        {"brightness": 1.01},
        {"contrast": 1.01},
        {"saturation": 1.01},
    ):
        keys.add(key_of(sample, "v", (32, 32), (Transform(**change),)))  # type: ignore[arg-type]
    keys.add(key_of(sample, "v", (32, 32), plain * 2))
    with sample.path.open("ab") as stream:
        stream.write(b"\0")
    changed = scan(folder, CONFIG).samples[0]
    keys.add(key_of(changed, "v", (32, 32), plain))
    assert len(keys) == 13
    renamed = replace(sample, name="other", caption="other", path=Path("other"))
    assert key_of(renamed, "v", (32, 32), plain) in keys  # content counts, not its name


def test_every_augmentation_setting_changes_the_key(folder: Path) -> None:
    sample = scan(folder, CONFIG).samples[0]
    changes: list[dict[str, object]] = [
        {},
        {"flip": False},
        {"crop": 0.8},
        {"rotate_deg": 5.0},
        {"colour": 0.2},
        {"variants": 4},
    ]
    configs = [CONFIG.model_copy(update=change) for change in changes]
    keys = {key_of(sample, "v", (32, 32), variants(sample, config, 0)) for config in configs}
    keys.add(key_of(sample, "v", (32, 32), variants(sample, CONFIG, 1)))
    assert len(keys) == 7


def test_originals_are_never_touched(folder: Path, tmp_path: Path) -> None:
    def state() -> dict[str, tuple[str, int]]:
        return {str(p): (sha256(p), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}

    before = state()
    bank, _, _ = build(folder, tmp_path / "cache")
    bank.batch(3, 2, 0)
    assert state() == before


def test_failures_are_named(folder: Path, tmp_path: Path) -> None:
    manifest = scan(folder, CONFIG)
    buckets = assign(manifest, size_px=32, step_px=8)
    options = {"vae": "v", "scale": 1.0, "device": CPU}
    with pytest.raises(ModelError) as nan:
        drained(fill(buckets, CONFIG, lambda x: x * float("nan"), folder=None, **options))  # type: ignore[arg-type]
    assert nan.value.code == "DS004" and nan.value.where in {s.name for s in manifest.samples}
    with (folder / "絵0.png").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(TsuikaError, match="changed"):
        drained(fill(buckets, CONFIG, lambda x: x, folder=None, **options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one image"):
        Bank([], CONFIG, CPU)


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EROFS, "DS020"), (errno.EACCES, "DS020"), (errno.EIO, "DS020"), (errno.ENOSPC, "RS002")]
)
def test_a_cache_that_cannot_be_written_is_named_and_still_read(
    number: int, code: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_old: Path, new: Path) -> None:
        raise OSError(number, os.strerror(number), str(new))

    full, _, _ = build(folder, tmp_path / "cache")
    monkeypatch.setattr(files, "rename", refuse)
    assert same(full, build(folder, tmp_path / "cache")[0])
    with pytest.raises(ResourceError) as error:
        build(folder, tmp_path / "other")
    assert error.value.code == code and str(tmp_path / "other") in str(error.value.where)
    assert not [*tmp_path.glob("other/*")]
    assert same(full, build(folder, tmp_path / "other", CONFIG.model_copy(update={"cache": False}))[0])


def test_a_file_where_the_cache_should_be_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError) as error:
        build(folder, tmp_path / "file")
    assert error.value.code == "DS020" and error.value.where == str(tmp_path / "file")


def shelves(counts: dict[tuple[int, int], list[int]], variant_count: int = 2) -> list[BucketLatents]:
    """Buckets with pictures of given repeats; latents hold their picture's number and variant."""
    made, number = [], 0
    for (width, height), repeats in counts.items():
        samples, values = [], []
        for times in repeats:
            name = f"p{number}"
            samples.append(
                Sample(Path(name), name, f"sks, a{number}, b, c", width, height, times, name, 1 + number / 8)
            )
            values.append([[number], [number + 0.5]][:variant_count])
            number += 1
        latents = torch.tensor(values).reshape(len(samples), variant_count, 1, 1, 1)
        latents = latents.expand(-1, -1, 4, height // 8, width // 8).clone()
        made.append(BucketLatents(width, height, tuple(samples), tuple(latents)))
    return made


COUNTS = {(64, 64): [1, 1, 2, 1, 3], (96, 40): [1, 1], (40, 96): [2], (80, 48): [1] * 11}


@pytest.mark.parametrize("batch_size", [1, 3, 4])
@pytest.mark.parametrize("seed", [0, 7])
def test_every_picture_equally_often(batch_size: int, seed: int) -> None:
    bank = Bank(shelves(COUNTS), CONFIG, CPU)
    assert bank.round_steps == 8 + 2 + 2 + 11
    seen: Counter[str] = Counter()
    for step in range(2 * bank.round_steps):
        batch = bank.batch(step, batch_size, seed)
        assert len(batch) == batch_size == len(batch.latents_BCHW) == len(batch.names) == len(batch.weight_B)
        seen.update(batch.names)
        if step + 1 in (bank.round_steps, 2 * bank.round_steps):
            rounds = (step + 1) // bank.round_steps
            for shelf in bank.buckets:
                for sample in shelf.samples:
                    assert seen[sample.name] == rounds * batch_size * sample.repeats


def test_buckets_in_proportion_at_any_time() -> None:
    bank = Bank(shelves(COUNTS), CONFIG, CPU)
    visits: Counter[tuple[int, int]] = Counter()
    for step in range(60):
        visits[bank.size_px_of(bank.batch(step, 2, 5))] += 1
        for shelf in bank.buckets:
            due = (step + 1) * sum(sample.repeats for sample in shelf.samples) / bank.round_steps
            assert abs(visits[shelf.width, shelf.height] - due) <= 1 + 1e-9


def test_one_bucket_never_repeats_before_all_were_seen() -> None:
    bank = Bank(shelves({(64, 64): [1] * 7}), CONFIG, CPU)
    row = [name for step in range(14) for name in bank.batch(step, 3, 1).names]
    for start in range(0, 42, 7):
        assert len(set(row[start : start + 7])) == 7
    assert row[:7] != row[7:14]


def equal(one: object, other: object) -> bool:
    a, b = vars(one), vars(other)
    return all(torch.equal(a[k], b[k]) if isinstance(a[k], Tensor) else a[k] == b[k] for k in a)


def test_any_step_at_any_time_gives_the_same_bits() -> None:
    config = CONFIG.model_copy(update={"caption_dropout": 0.3, "shuffle_tags": True})
    first, fresh = Bank(shelves(COUNTS), config, CPU), Bank(shelves(COUNTS), config, CPU)
    row = [first.batch(step, 4, 3) for step in range(120)]
    for step in (119, 0, 57, 56, 118, 3):
        assert equal(fresh.batch(step, 4, 3), row[step])
        assert equal(first.batch(step, 4, 3), row[step])
    far = first.batch(10**6, 4, 3)
    assert equal(Bank(shelves(COUNTS), config, CPU).batch(10**6, 4, 3), far)
    others = [first.batch(step, 4, 4) for step in range(40)]
    assert [b.names for b in others] != [b.names for b in row[:40]]
    assert len({b.names for b in row}) > 60


def test_batch_holds_what_it_names() -> None:
    config = CONFIG.model_copy(update={"caption_dropout": 0.4, "shuffle_tags": True, "keep_tokens": 1})
    bank = Bank(shelves(COUNTS), config, CPU)
    kinds: Counter[float] = Counter()
    empty = total = 0
    for step in range(100):
        batch = bank.batch(step, 3, 2)
        for i, name in enumerate(batch.names):
            number = int(name[1:])
            value = batch.latents_BCHW[i].unique().item()
            assert int(value) == number
            assert batch.weight_B[i].item() == 1 + number / 8
            kinds[value - number] += 1
            total += 1
            empty += batch.captions[i] == ""
            if batch.captions[i]:
                assert batch.captions[i].startswith("sks, ")
                assert sorted(batch.captions[i].split(", ")) == sorted(["sks", f"a{number}", "b", "c"])
    assert abs(kinds[0.0] - total / 2) < 5 * (total / 4) ** 0.5
    assert abs(empty - 0.4 * total) < 5 * (total * 0.24) ** 0.5


def test_plain_and_sizes() -> None:
    bank = Bank(shelves(COUNTS), CONFIG.model_copy(update={"caption_dropout": 0.5}), CPU)
    plain = list(bank.plain())
    assert len({batch.names[0] for batch in plain}) == len(bank) == len(plain) == 19
    assert all(batch.captions[0] and batch.latents_BCHW.unique().item() == int(batch.names[0][1:]) for batch in plain)
    assert bank.size_px_of(plain[0]) == (64, 64)
    with pytest.raises(KeyError):
        bank.size_px_of(replace(plain[0], latents_BCHW=torch.zeros(1, 4, 1, 1)))
    for step, size in ((-1, 1), (0, 0)):
        with pytest.raises(ValueError, match="step"):
            bank.batch(step, size, 0)


def spans_of(folder: Path) -> list[tuple[int, int]]:
    """Addresses at which files of a folder are mapped into this process."""
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    ends = [line.split()[0].split("-") for line in lines if str(folder) in line]
    return [(int(begin, 16), int(end, 16)) for begin, end in ends]


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="Linux says what is mapped")
def test_latents_are_the_files_of_the_cache(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for _ in ("encoded", "from the cache"):
        bank, _, _ = build(folder, cache)
        spans = spans_of(cache)
        for latents in (latents for shelf in bank.buckets for latents in shelf.latents_NVCHW):
            begin = latents.data_ptr()
            assert any(first <= begin and begin + latents.nbytes <= last for first, last in spans)
    held, _, _ = build(folder, None)
    for path in cache.glob("*.safetensors"):
        path.unlink()
    assert same(bank, held)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the shared photographs are not beside this checkout")
def test_real_photographs(tmp_path: Path) -> None:
    before = {p.name: (sha256(p), p.stat().st_mtime_ns) for p in PHOTOS.iterdir()}
    config = Data(trigger="sks", class_word="cat", flip=True, crop=0.8, rotate_deg=5, variants=2)
    encode, _ = encoder()
    manifest = scan(PHOTOS, config, size_px=64)
    assert len(manifest) == len(before) and not manifest.quarantined and not manifest.notes
    assert {sample.caption for sample in manifest.samples} == {"sks cat"}
    buckets = assign(manifest, size_px=64, step_px=16)
    bank = drained(fill(buckets, config, encode, vae="v", scale=1.0, folder=tmp_path / "c", device=CPU))
    batch = bank.batch(0, 4, 0)
    width, height = bank.size_px_of(batch)
    assert batch.latents_BCHW.shape == (4, 4, height // 4, width // 4)
    assert batch.latents_BCHW.std() > 0.05
    assert {p.name: (sha256(p), p.stat().st_mtime_ns) for p in PHOTOS.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
