"""Every kind of picture file against an expectation computed here, without the code under test."""

from __future__ import annotations

import io
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, features

from tsuika.core.errors import ImageError
from tsuika.data import image as image_module
from tsuika.data.image import MAX_PIXELS, UnusableError, open_image, read_image, sniff

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def pixels(path: Path) -> np.ndarray:
    image = open_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def srgb_encode(linear: float) -> float:
    """IEC 61966-2-1."""
    return 255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055)


def s15(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def icc(space: bytes, kind: bytes, pcs: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC v2 profile (ICC.1:2001-04)."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78)
    tags = {
        b"desc": text,
        b"cprt": b"text" + bytes(4) + b"none\0\0\0\0",
        b"wtpt": b"XYZ " + bytes(4) + s15(0.9642) + s15(1.0) + s15(0.8249),
        **tags,
    }
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02400000, kind, space, pcs)
    head += bytes(12) + b"acsp" + bytes(24) + bytes(4) + s15(0.9642) + s15(1.0) + s15(0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


LINEAR = b"curv" + bytes(4) + struct.pack(">I", 0)  # no entries: the identity
# sRGB's primaries adapted to D50 (Lindbloom), columns R, G, B
PRIMARIES = {
    b"rXYZ": (0.43607, 0.22249, 0.01392),
    b"gXYZ": (0.38515, 0.71687, 0.09708),
    b"bXYZ": (0.14307, 0.06061, 0.7141),
}
XYZ = {name: b"XYZ " + bytes(4) + b"".join(map(s15, value)) for name, value in PRIMARIES.items()}
LINEAR_RGB = icc(b"RGB ", b"mntr", b"XYZ ", {**XYZ, b"rTRC": LINEAR, b"gTRC": LINEAR, b"bTRC": LINEAR})
LINEAR_GREY = icc(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": LINEAR})


def cmyk_profile() -> bytes:
    """A CMYK profile in which only C and K darken: L* = 100 (1 - C/2)(1 - K), a = b = 0."""
    ramp = struct.pack(">256B", *range(256))
    nodes = b""
    for c in (0, 1):
        for _m in (0, 1):
            for _y in (0, 1):
                for k in (0, 1):
                    nodes += bytes([round(255 * (1 - c / 2) * (1 - k)), 128, 128])
    matrix = b"".join(s15(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    lut = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + nodes + ramp * 3
    return icc(b"CMYK", b"prtr", b"Lab ", {b"A2B0": lut, b"A2B1": lut})


# What the stored pixels of each EXIF orientation must be turned to: rows/columns as EXIF 2.32 defines them.
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    blocks = np.array([[RED, GREEN, BLUE], [WHITE, (0, 0, 0), (255, 255, 0)]], dtype=np.uint8)
    stored = blocks.repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}.get(suffix, {})
    Image.fromarray(stored).save(path, exif=exif, **options)
    expected = UPRIGHT[orientation](stored).astype(int)
    found = pixels(path)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= (6 if suffix == "jpg" else 0)


def test_alpha_on_white(tmp_path: Path) -> None:
    rgba = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(rgba, "RGBA").save(tmp_path / "a.png")
    share = rgba[..., 3:].astype(float) / 255
    expected = rgba[..., :3] * share + 255 * (1 - share)
    assert np.abs(pixels(tmp_path / "a.png") - expected).max() <= 1


def test_grey_with_alpha(tmp_path: Path) -> None:
    data = np.array([[[0, 255], [0, 0], [100, 51]]], dtype=np.uint8)
    Image.fromarray(data, "LA").save(tmp_path / "a.png")
    assert np.abs(pixels(tmp_path / "a.png")[0, :, 0] - [0, 255, 100 * 0.2 + 255 * 0.8]).max() <= 1


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1, 2, 3]], dtype=np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE, 0, 0, 0])
    image.save(tmp_path / "one.png", transparency=1)
    image.save(tmp_path / "some.png", transparency=bytes([255, 0, 128]))
    image.save(tmp_path / "one.gif", transparency=1)
    assert pixels(tmp_path / "one.png").tolist() == [[[*RED], [*WHITE], [*BLUE], [0, 0, 0]]]
    assert pixels(tmp_path / "one.gif").tolist() == [[[*RED], [*WHITE], [*BLUE], [0, 0, 0]]]
    assert np.abs(pixels(tmp_path / "some.png") - [[[*RED], [*WHITE], [127, 127, 255], [0, 0, 0]]]).max() <= 1


def test_colour_key_transparency(tmp_path: Path) -> None:
    Image.fromarray(np.array([[RED, GREEN]], dtype=np.uint8)).save(tmp_path / "rgb.png", transparency=GREEN)
    Image.fromarray(np.array([[10, 200]], dtype=np.uint8)).save(tmp_path / "grey.png", transparency=10)
    assert pixels(tmp_path / "rgb.png").tolist() == [[[*RED], [*WHITE]]]
    assert pixels(tmp_path / "grey.png")[0, :, 0].tolist() == [255, 200]


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    value = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    for suffix in ("png", "tiff"):
        Image.fromarray(value).save(tmp_path / f"g.{suffix}")
        found = pixels(tmp_path / f"g.{suffix}")
        assert np.abs(found[..., 0] - value / 257).max() <= 0.5
        assert (found[..., 0] == found[..., 1]).all()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG by hand (W3C PNG, 5 and 11)."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body


def test_16_bit_rgb_and_16_bit_colour_key(tmp_path: Path) -> None:
    rgb = np.array([[0, 65535, 32768, 257, 514, 65000]], dtype=">u2")
    (tmp_path / "rgb.png").write_bytes(png(2, 1, 16, 2, b"\0" + rgb.tobytes()))
    assert np.abs(pixels(tmp_path / "rgb.png").ravel() - rgb.ravel() / 257).max() <= 1
    key = struct.pack(">I", 2) + b"tRNS" + struct.pack(">H", 300)
    key += struct.pack(">I", zlib.crc32(key[4:]))
    grey = np.array([300, 301, 60000], dtype=">u2")
    (tmp_path / "key.png").write_bytes(png(3, 1, 16, 0, b"\0" + grey.tobytes(), key))
    assert pixels(tmp_path / "key.png")[0, :, 0].tolist() == [255, 1, round(60000 / 257)]


def test_one_bit_and_ycbcr(tmp_path: Path) -> None:
    bits = np.array([[True, False], [False, True]]).repeat(4, 0).repeat(4, 1)
    Image.fromarray(bits).save(tmp_path / "b.png")
    assert (pixels(tmp_path / "b.png") == np.where(bits, 255, 0)[..., None]).all()


def test_cmyk_without_profile_and_adobe_inverted(tmp_path: Path) -> None:
    inks = np.zeros((32, 64, 4), dtype=np.uint8)
    inks[:, :16], inks[:, 16:32], inks[:, 32:48] = (255, 0, 0, 0), (0, 255, 255, 0), (0, 0, 0, 128)
    expected = np.concatenate([np.full((32, 16, 3), c) for c in ((0, 255, 255), RED, (127, 127, 127), WHITE)], 1)
    image = Image.fromarray(inks, "CMYK")
    image.save(tmp_path / "c.tiff")
    image.save(tmp_path / "c.jpg", quality=100, subsampling=0)
    content = (tmp_path / "c.jpg").read_bytes()
    assert b"Adobe" in content[:200]  # so the file holds inverted inks
    assert np.abs(pixels(tmp_path / "c.tiff") - expected).max() <= 1
    assert np.abs(pixels(tmp_path / "c.jpg") - expected).max() <= 8


def test_cmyk_with_profile(tmp_path: Path) -> None:
    inks = np.zeros((4, 3, 4), dtype=np.uint8)
    inks[:, 0, 0], inks[:, 1, 3] = 255, 255
    Image.fromarray(inks, "CMYK").save(tmp_path / "c.tiff", icc_profile=cmyk_profile())
    half = srgb_encode(((50 + 16) / 116) ** 3)  # L* 50, CIE 1976
    found = pixels(tmp_path / "c.tiff")
    for column, expected in enumerate((half, 0, 255)):
        assert np.abs(found[:, column] - expected).max() <= 3, column


def test_icc_to_srgb(tmp_path: Path) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    curve = np.array([srgb_encode(v / 255) for v in range(256)])
    Image.fromarray(rgb).save(tmp_path / "rgb.png", icc_profile=LINEAR_RGB)
    assert np.abs(pixels(tmp_path / "rgb.png") - curve[rgb]).max() <= 3
    Image.fromarray(rgb[..., 0]).save(tmp_path / "grey.png", icc_profile=LINEAR_GREY)
    assert np.abs(pixels(tmp_path / "grey.png") - curve[rgb[..., :1]]).max() <= 3
    see_through = np.dstack([rgb, np.full((8, 8), 128, dtype=np.uint8)])
    Image.fromarray(see_through, "RGBA").save(tmp_path / "rgba.png", icc_profile=LINEAR_RGB)
    expected = curve[rgb] * 128 / 255 + 255 * 127 / 255
    assert np.abs(pixels(tmp_path / "rgba.png") - expected).max() <= 3


def test_srgb_profile_leaves_pixels_alone(tmp_path: Path) -> None:
    rgb = np.random.default_rng(4).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(rgb).save(tmp_path / "x.png", icc_profile=profile)
    assert (pixels(tmp_path / "x.png") == rgb).all()


@pytest.mark.parametrize("profile", [b"nonsense", LINEAR_GREY])
def test_useless_profile_is_said(tmp_path: Path, profile: bytes) -> None:
    Image.new("RGB", (4, 4), (9, 99, 199)).save(tmp_path / "x.png", icc_profile=profile)
    opened = read_image(tmp_path / "x.png")
    assert opened.image.getpixel((0, 0)) == (9, 99, 199)
    assert [code for code, _ in opened.notes] == ["profile-ignored"]


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:], **options)
    assert (pixels(tmp_path / f"x.{suffix}") == RED).all()


@pytest.mark.parametrize(("suffix", "feature"), [("avif", "avif"), ("webp", "webp"), ("bmp", None), ("heic", None)])
def test_lossy_and_plain_formats(tmp_path: Path, suffix: str, feature: str | None) -> None:
    if feature and not features.check(feature):
        pytest.skip(f"Pillow was built without {feature}")
    if suffix == "heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    rgb = np.dstack([*np.meshgrid(ramp, ramp), np.full((64, 64), 128, dtype=np.uint8)])
    Image.fromarray(rgb).save(tmp_path / f"x.{suffix}", quality=95)
    assert np.abs(pixels(tmp_path / f"x.{suffix}") - rgb).mean() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "webp", "tiff", "bmp", "avif"])
def test_truncated_files_are_found(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, {"jpg": "jpeg"}.get(suffix, suffix))
    content = stream.getvalue()
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # someone else's setting must not matter
    for share in (0.1, 0.5, 0.9):
        path = tmp_path / f"{share}.{suffix}"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnusableError) as caught:
            open_image(path)
        assert caught.value.reason == "damaged"
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_unusable_files(tmp_path: Path) -> None:
    cases = {
        "empty.jpg": (b"", "empty"),
        "text.png": (b"this is a shopping list", "not-a-picture"),
        "vector.jpg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not-a-picture"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not-a-picture"),
        "noise.webp": (bytes(range(256)) * 9, "not-a-picture"),
    }
    for name, (content, reason) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError) as caught:
            open_image(tmp_path / name)
        assert isinstance(caught.value, UnusableError) and caught.value.reason == reason, name
        assert name in caught.value.describe("ja")
    with pytest.raises(UnusableError):
        open_image(tmp_path / "nowhere.png")
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UnusableError, match="16 bits"):
        open_image(tmp_path / "float.tiff")


@pytest.mark.parametrize("limit", [Image.MAX_IMAGE_PIXELS, None])
def test_decompression_bombs_are_never_decoded(
    tmp_path: Path, limit: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    side = math.isqrt(MAX_PIXELS) + 1
    for width, height in ((60000, 60000), (side, side)):
        (tmp_path / "bomb.png").write_bytes(png(width, height, 8, 2, b""))
        with pytest.raises(UnusableError) as caught:
            open_image(tmp_path / "bomb.png")
        assert caught.value.reason == "too-large"


def test_damaged_bytes_never_escape_as_other_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tsuika.data.image.MAX_PIXELS", 100_000)  # headers that lie about the size take long to decode
    random = np.random.default_rng(3)
    base = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("jpeg", "png", "gif", "webp", "tiff", "bmp", "avif"):
        stream = io.BytesIO()
        base.save(stream, kind, **({} if kind in ("gif", "bmp") else {"exif": exif}))
        for _ in range(12):
            content = bytearray(stream.getvalue())
            for place in random.integers(0, min(len(content), 400), 4):
                content[place] = random.integers(0, 256)
            (tmp_path / "x").write_bytes(content)
            try:
                assert open_image(tmp_path / "x").mode == "RGB"
            except UnusableError as error:
                assert error.words


def test_hash_is_of_the_bytes(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    first = read_image(tmp_path / "a.png").sha256
    with (tmp_path / "a.png").open("ab") as stream:
        stream.write(b"x")
    assert read_image(tmp_path / "a.png").sha256 != first


def test_sniff_knows_what_pillow_writes(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"):
        stream = io.BytesIO()
        Image.new("RGB", (8, 8)).save(stream, kind)
        assert sniff(stream.getvalue()[:16]) == kind
    assert sniff(b"BM means nothing here") is None
    assert sniff(b"\0\0\0\x18ftypisom\0\0\0\0") is None  # a film


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tif", "avif"])
def test_of_several_frames_one_that_shows_something_is_used_and_said(suffix: str, tmp_path: Path) -> None:
    blank, shown = Image.new("RGB", (32, 32), "white"), Image.radial_gradient("L").resize((32, 32)).convert("RGB")
    path = tmp_path / f"a.{suffix}"
    blank.save(path, save_all=True, append_images=[blank, shown, Image.new("RGB", (32, 32), "red")])
    opened = read_image(path)
    assert np.abs(np.asarray(opened.image, np.int16) - np.asarray(shown, np.int16)).mean() < 6
    # Encoders join equal frames.
    assert [code for code, _words in opened.notes] == ["frames"] and "frame " in opened.notes[0][1]
    shown.save(path, save_all=True, append_images=[blank])
    assert "frame 1 of 2" in read_image(path).notes[0][1]
    blank.save(path, save_all=True, append_images=[Image.new("RGB", (32, 32), "red")])
    assert "frame 1 of 2" in read_image(path).notes[0][1]
    shown.save(path)
    assert read_image(path).notes == ()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16", "CMYK", "JPEG"])
def test_very_large_images_are_read_smaller_and_said(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as shrinking what the whole image shows, whatever its kind of pixels; odd sides."""
    # Dots of a dithered image must fall into the same cells.
    size = (300, 204) if mode == "1" else (301, 203)
    ramp = Image.linear_gradient("L").resize(size, Image.Resampling.BICUBIC)
    path = tmp_path / "a.png"
    if mode == "I;16":
        Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257).save(path)
    elif mode == "CMYK":
        ramp.convert("CMYK").save(path := tmp_path / "a.tif")
    elif mode == "JPEG":
        ramp.convert("RGB").save(path := tmp_path / "a.jpg", quality=95)
    else:
        ramp.convert(mode).save(path)
    whole = read_image(path)
    assert not whole.notes
    monkeypatch.setattr(image_module, "KEPT_PIXELS", 301 * 203 // 8)
    monkeypatch.setattr(image_module, "_STRIP", 7)
    small = read_image(path)
    assert small.sha256 == whole.sha256 and [code for code, _words in small.notes] == ["reduced"]
    assert f"{size[0]}x{size[1]}" in small.notes[0][1]
    assert small.image.size == {"JPEG": (76, 51), "1": (100, 68)}.get(mode, (101, 68))
    expected = whole.image.resize(small.image.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small.image, np.int16) - np.asarray(expected, np.int16)).mean() < 2


def test_an_image_for_which_memory_does_not_suffice_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(image: Image.Image) -> None:
        raise MemoryError

    Image.new("RGB", (8, 9)).save(tmp_path / "a.png")
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", none)
    with pytest.raises(UnusableError) as caught:
        read_image(tmp_path / "a.png")
    assert caught.value.reason == "too-large" and "8x9" in caught.value.words
