"""Masks: whose they are, that they lie where their image lies, what they do to the loss, and what is said of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, interpolate, mse_loss

from tsuika.core.errors import ImageError
from tsuika.core.events import drained
from tsuika.core.sections import Data
from tsuika.data.augment import Transform, render, render_mask
from tsuika.data.bank import Bank, fill
from tsuika.data.bucket import assign
from tsuika.data.check import check
from tsuika.data.manifest import Manifest
from tsuika.data.reg_images import RegularizedBank
from tsuika.data.scan import scan
from tsuika.diffusion.objective import squared_error

CPU = torch.device("cpu")
AUTO = Data(masks="auto", caption_dropout=0.0, min_size_px=8)


def noise(seed: int, size: tuple[int, int] = (32, 32), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def bank_of(folder: Path, config: Data, cache: Path | None = None, calls: list[int] | None = None) -> Bank:
    def encode(pixels_B3HW: torch.Tensor) -> torch.Tensor:
        if calls is not None:
            calls.append(1)
        return avg_pool2d(pixels_B3HW, 4)

    manifest = scan(folder, config, size_px=32)
    buckets = assign(manifest, size_px=32, step_px=8)
    return drained(fill(buckets, config, encode, vae="v", scale=1.0, folder=cache, device=CPU))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "set"
    (place / "in").mkdir(parents=True)
    for i, name in enumerate(("0", "in/1", "2")):
        noise(i).save(place / f"{name}.png")
    noise(10, mode="L").save(place / "0-mask.png")
    return place


def test_the_loss_is_that_of_sd_scripts() -> None:
    """`apply_masked_loss` of kohya's sd-scripts, then the mean over channels and places, on the same tensors."""
    random = torch.Generator().manual_seed(0)
    output, target = (torch.randn(2, 4, 8, 8, generator=random) for _ in range(2))
    masks = [noise(seed, mode="L") for seed in (0, 1)]
    pixels = torch.stack([torch.from_numpy(np.array(one, dtype=np.float32))[None] / 255 for one in masks])
    theirs = mse_loss(output, target, reduction="none") * interpolate(pixels, size=(8, 8), mode="area")
    ours = torch.stack([render_mask(one, Transform(), (32, 32), (8, 8)) for one in masks])
    torch.testing.assert_close(squared_error(output, target, ours), theirs.mean([1, 2, 3]))
    assert torch.equal(squared_error(output, target, torch.ones(2, 1, 8, 8)), squared_error(output, target))


@pytest.mark.parametrize("size", [(48, 32), (40, 64)])
@pytest.mark.parametrize(
    "transform",
    [Transform(), Transform(flip=True), Transform(scale=0.6, x=0.9, y=0.2), Transform(angle_deg=25, flip=True, x=0.3)],
)
def test_a_mask_lies_where_its_image_lies(transform: Transform, size: tuple[int, int]) -> None:
    """An image that is its own mask: what is seen of it is its weight."""
    x, y = np.meshgrid(np.arange(150), np.arange(110))
    mask = Image.fromarray((255 / (1 + np.exp((np.hypot(x - 90, y - 40) - 30) / 4))).astype(np.uint8))
    pixels_CHW = render(mask.convert("RGB"), transform, size)
    seen = avg_pool2d(pixels_CHW[:1] / 2 + 0.5, 8)
    weights = render_mask(mask, transform, size, (size[0] // 8, size[1] // 8))
    assert weights.shape == seen.shape and (weights - seen).abs().max() < 0.02
    assert seen.max() - seen.min() > 0.5


def test_masks_are_found_beside_images_and_in_folders(folder: Path, tmp_path: Path) -> None:
    def masked(config: Data) -> dict[str, str]:
        samples = scan(folder, config, size_px=32).samples
        return {one.name: one.mask.relative_to(tmp_path).as_posix() for one in samples if one.mask}

    assert masked(AUTO) == {"0.png": "set/0-mask.png"}
    assert masked(Data(min_size_px=8)) == {} == masked(Data(min_size_px=8, masks="none"))
    masks = tmp_path / "masks"
    for name in ("2", "in/1", "2-mask"):
        (masks / name).parent.mkdir(parents=True, exist_ok=True)
        noise(20, mode="L").save(masks / f"{name}.png")
    elsewhere = AUTO.model_copy(update={"masks": str(masks)})
    assert masked(elsewhere) == {"2.png": "masks/2-mask.png", "in/1.png": "masks/in/1.png"}
    # In another order of folders it is found by its name.
    (masks / "in" / "1.png").rename(masks / "1.png")
    (masks / "2-mask.png").unlink()
    assert masked(elsewhere) == {"2.png": "masks/2.png", "in/1.png": "masks/1.png"}
    # A folder of masks among the images is no folder of images.
    masks.rename(folder / "white is the cat")
    inside = scan(folder, AUTO.model_copy(update={"masks": str(folder / "white is the cat")}), size_px=32)
    assert len(inside) == 3 and sum(one.mask is not None for one in inside.samples) == 2
    with pytest.raises(ImageError) as missing:
        masked(elsewhere)
    assert missing.value.code == "DS001"


def test_weights_go_with_their_latents(folder: Path, tmp_path: Path) -> None:
    config = AUTO.model_copy(update={"flip": True, "mask_outside": 0.25})
    calls: list[int] = []
    fresh = bank_of(folder, config)
    kept = bank_of(folder, config, tmp_path / "cache", calls)
    again = bank_of(folder, config, tmp_path / "cache", calls)
    assert len(calls) == 6
    mask = torch.from_numpy(np.array(Image.open(folder / "0-mask.png"), dtype=np.float32))[None, None] / 255
    plain = 0.25 + 0.75 * interpolate(mask, size=(8, 8), mode="area")[0]
    flips = 0
    for step in range(8):
        batches = [bank.batch(step, 3, 0) for bank in (fresh, kept, again)]
        for batch in batches:
            assert batch.mask_B1HW is not None and torch.equal(batch.mask_B1HW, batches[0].mask_B1HW)
        row = batches[0].names.index("0.png")
        weights = batches[0].mask_B1HW
        flips += not torch.allclose(weights[row], plain)
        torch.testing.assert_close(weights[row], plain if torch.allclose(weights[row], plain) else plain.flip(-1))
        assert all(bool((weights[i] == 1).all()) for i in range(3) if i != row)
    assert 0 < flips < 8
    # Regularization images weigh whole, and a batch without a mask has none.
    size = fresh.buckets[0].width, fresh.buckets[0].height
    joined = RegularizedBank(fresh.only(["0.png"]), {size: fresh.only(["2.png"])}, 1.0).batch(0, 2, 0)
    assert joined.mask_B1HW is not None and bool((joined.mask_B1HW[2:] == 1).all()) and len(joined[1:3]) == 2
    assert fresh.only(["2.png"]).batch(0, 2, 0).mask_B1HW is None
    # Another mask is encoded anew; what has none is not.
    noise(11, mode="L").save(folder / "0-mask.png")
    bank_of(folder, config, tmp_path / "cache", calls)
    assert len(calls) == 8
    bank_of(folder, config.model_copy(update={"masks": "", "mask_outside": 0.0}), tmp_path / "cache", calls)
    assert len(calls) == 10


def test_transparency_as_mask(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    image, alpha = noise(0).convert("RGBA"), Image.new("L", (32, 32))
    alpha.paste(255, (16, 0, 32, 32))
    image.putalpha(alpha)
    image.save(folder / "a.png")
    noise(1).save(folder / "b.png")
    config = Data(alpha_mask=True, min_size_px=8, caption_dropout=0.0)
    batch = next(batch for batch in bank_of(folder, config).plain() if batch.names == ("a.png",))
    assert batch.mask_B1HW is not None and batch.mask_B1HW[0, 0, 0].tolist() == [0] * 4 + [1] * 4
    # A file stands above it; what is transparent in a mask is black.
    alpha.paste(128, (0, 0, 16, 32))
    cut_out = Image.new("RGBA", (32, 32), "white")
    cut_out.putalpha(alpha)
    cut_out.save(folder / "a-mask.png")
    both = next(bank_of(folder, config.model_copy(update={"masks": "auto"})).plain())
    assert both.mask_B1HW is not None
    torch.testing.assert_close(both.mask_B1HW[0, 0, 0], torch.tensor([128 / 255] * 4 + [1.0] * 4))


def test_what_is_wrong_with_masks_is_said(folder: Path) -> None:
    Image.new("L", (32, 32), 255).save(folder / "2-mask.png")
    (folder / "masks").mkdir()
    Image.new("L", (16, 64)).save(folder / "masks" / "1.png")
    noise(3).save(folder / "3.png")
    (folder / "3-mask.png").write_bytes((folder / "0-mask.png").read_bytes()[:200])
    noise(4).save(folder / "4.png")
    noise(5, mode="L").save(folder / "masks" / "9.png")
    for config in (Data(min_size_px=8), AUTO):
        report = drained(check(folder, config, size_px=32, step_px=8))
        found = {one.code: one.pictures for one in report.findings}
        assert found["masked"] == ("0.png", "2.png", "in/1.png")
        assert found["mask-empty"] == found["mask-size"] == ("in/1.png",)
        assert found["mask-white"] == ("2.png",) and found["mask-unreadable"] == ("3.png",)
        assert found["mask-none"] == ("4.png",) and found["mask-orphan"] == ("masks/9.png",)
        assert [one.mask for one in report.pictures] == ["file", "file", "", "", "file"]
    manifest = scan(folder, AUTO, size_px=32)
    remarks = [remark.message for remark in manifest.remarks()]
    # What is used is not called left out.
    assert not any("left out: a mask" in text and "0-mask" in text for text in remarks)
    assert any("mask is empty" in text and "in/1.png" in text for text in remarks)
    assert Manifest.from_dict(manifest.to_dict()) == manifest


def test_a_weight_outside_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="means nothing without masks"):
        Data(mask_outside=0.5)
