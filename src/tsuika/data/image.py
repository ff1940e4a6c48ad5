"""One file to one sRGB image: orientation, transparency, 16 bits, CMYK and colour profiles. Knows nothing of folders.

Pixels are fully decoded, so a file that is cut off is found here and not in the middle of a run.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageFile, UnidentifiedImageError

from tsuika.core.errors import ImageError
from tsuika.core.texts import _

BACKGROUND: Final = (255, 255, 255)  # transparent pixels show this: white, as paper and web pages do
MAX_PIXELS: Final = 178_956_970  # Pillow's own limit for refusing: 2 x Image.MAX_IMAGE_PIXELS, half a GiB of RGB
# Larger ones are read at a whole fraction of their size: no base trains at such a size, and it bounds the memory.
KEPT_PIXELS: Final = 1 << 26
# Frames that are looked at for one that shows something, and pixels of all of them.
_FRAMES: Final = 64
_FRAME_PIXELS: Final = 1 << 26
_BLANK: Final = 4.0  # grey levels, standard deviation: below it a frame shows nothing
_SEQUENCES: Final = ("GIF", "WEBP", "PNG", "TIFF", "AVIF")
_IS_REDUCED: Final = 1  # TIFF 6.0, NewSubfileType: a smaller version of another page
MAX_FILE_BYTES: Final = 1 << 30

# No SVG, EPS or PDF: those run programs or draw at any size. HEIF only where pillow-heif is installed.
FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "HEIF")

# EXIF 2.32, tag 0x0112: how the stored image is to be turned.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's decoders raise on damaged or hostile files; our own code runs outside of the `try` that catches these.
_DAMAGED: Final = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_CONFUSED: Final = (LookupError, TypeError, ArithmeticError, RuntimeError, AttributeError, AssertionError)
_DECODER_ERRORS: Final = (*_DAMAGED, *_CONFUSED)

_MAGICS: Final = (
    *((b"\xff\xd8\xff", "JPEG"), (b"\x89PNG\r\n\x1a\n", "PNG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF")),
    *((mark, "TIFF") for mark in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")),
)
_HEIF_BRANDS: Final = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")


class UnusableError(ImageError):
    """This image cannot be used; `reason` is a key of `faults.FAULTS`, `words` its particulars."""

    def __init__(self, path: object, reason: str, words: str) -> None:
        self.reason, self.words = reason, words
        super().__init__("DS003", where=path, why=words)


@dataclass(frozen=True)
class Opened:
    """A decoded image: mode RGB, upright, sRGB, 8 bits."""

    image: Image.Image
    sha256: str  # of the file's bytes
    notes: tuple[tuple[str, str], ...]  # (code, words): what had to be ignored
    alpha: Image.Image | None = None  # mode L, where the file has transparency: 255 is opaque


def open_image(path: Path) -> Image.Image:
    """The image as people see it: RGB, 8 bits, sRGB, upright, on white, the first frame that shows something.

    Raises:
        UnusableError: unreadable, damaged, not an image, too large, or of an unsupported kind.
    """
    return read_image(path).image


def read_image(path: Path) -> Opened:
    """`open_image`, with the file's hash and what had to be ignored. Hash and pixels come from one reading.

    Raises:
        UnusableError: as `open_image`.
    """
    try:
        if not path.is_file():
            raise UnusableError(path, "unreadable", _("It is not a regular file, or a link to nothing."))
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            sizes = {"size": f"{size / 1e9:.1f}", "most": f"{MAX_FILE_BYTES / 1e9:.1f}"}
            raise UnusableError(path, "too-large", _("{size} GB; at most {most} GB", **sizes))
        content = path.read_bytes()
    except OSError as error:
        raise UnusableError(path, "unreadable", error.strerror or str(error)) from None
    if not content:
        raise UnusableError(path, "empty", _("0 bytes"))
    image, notes = _decode(content, path)
    try:
        image, alpha, more = _srgb(image, path)
    # Some damage Pillow meets only here: a palette or a transparent colour that is not there.
    except _DECODER_ERRORS as error:
        raise UnusableError(path, "damaged", str(error) or type(error).__name__) from None
    return Opened(image, hashlib.sha256(content).hexdigest(), (*notes, *more), alpha)


def is_turned(path: Path) -> bool:
    """Whether EXIF turns the image; not where the EXIF cannot be read, as `read_image` takes it."""
    readable_formats()
    try:
        with Image.open(path) as file:
            return file.getexif().get(ExifTags.Base.Orientation, 1) in _TURNS
    except _DECODER_ERRORS:
        return False


def texts(path: Path) -> dict[str, str]:
    """Texts beside the pixels, by key: a PNG's chunks; `parameters` also from a JPEG's or WebP's EXIF comment.

    Raises:
        UnusableError: not an image.
    """
    readable_formats()
    try:
        with Image.open(path) as file:
            found = {str(key): text for key, text in file.info.items() if isinstance(text, str)}
            comment = file.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except _DECODER_ERRORS as error:
        raise UnusableError(path, "damaged", str(error) or type(error).__name__) from None
    if "parameters" not in found and isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
        found["parameters"] = comment[8:].decode("utf-16-be", "replace")
    return found


def sniff(head: bytes) -> str | None:
    """Which of `FORMATS` a file's first 16 bytes announce."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return "AVIF" if brand in (b"avif", b"avis") else "HEIF" if brand in _HEIF_BRANDS else None
    for magic, name in _MAGICS:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    # "BM" alone is too common a beginning of text; bytes 6..9 of a BMP are reserved and zero.
    return "BMP" if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" else None


def readable_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that can be decoded on this machine."""
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        pass
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


Notes = tuple[tuple[str, str], ...]
_STRIP: Final = 256  # rows of the smaller image
_one_at_a_time = Lock()  # decoding needs memory for all pixels, however large the image
_strictness = Lock()
_warnings = ExitStack()
_strict_threads: list[bool] = []  # one entry a thread that decodes: what LOAD_TRUNCATED_IMAGES was for the first


@contextmanager
def _strict_decoding() -> Iterator[None]:
    """Truncated files are errors, and Pillow does not warn of large ones.

    Both are settings of the whole process: the first thread makes them, the last one restores what was set before.
    """
    with _strictness:
        if not _strict_threads:
            _warnings.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        _strict_threads.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        with _strictness:
            if len(_strict_threads) == 1:
                ImageFile.LOAD_TRUNCATED_IMAGES = _strict_threads[0]
                _warnings.close()
            del _strict_threads[-1]


def _decode(content: bytes, path: Path) -> tuple[Image.Image, Notes]:
    """One frame with its pixels, as stored, turned upright."""
    announced, formats = sniff(content[:16]), readable_formats()
    if announced and announced not in formats:
        heif = _("HEIF needs pillow-heif, which is not installed: pip install 'tsuika[heif]'")
        words = heif if announced == "HEIF" else _("The installed Pillow cannot read {format}.", format=announced)
        raise UnusableError(path, "unsupported", words)
    full = (0, 0)
    with _strict_decoding():
        try:
            image: Image.Image = Image.open(io.BytesIO(content), formats=formats)
            if image.width * image.height > MAX_PIXELS:  # Pillow's own check may have been switched off
                raise Image.DecompressionBombError
            full = image.size
            with _one_at_a_time if full[0] * full[1] > KEPT_PIXELS else nullcontext():
                notes = _load(image)
                # After load: Pillow turns TIFFs itself and then forgets the tag.
                turn, more = _turn(image)
                image = _reduced(image)
        except Image.DecompressionBombError:
            words = _("more than {most} megapixels", most=MAX_PIXELS // 1_000_000)
            raise UnusableError(path, "too-large", words) from None
        except UnidentifiedImageError:
            if announced:
                words = _("It begins like {format}, but cannot be opened.", format=announced)
                raise UnusableError(path, "damaged", words) from None
            words = _("It is none of: {formats}", formats=", ".join(formats))
            raise UnusableError(path, "not-a-picture", words) from None
        except MemoryError:
            words = _("{width}x{height} px, for which memory does not suffice", width=full[0], height=full[1])
            raise UnusableError(path, "too-large", words) from None
        except _DECODER_ERRORS as error:
            raise UnusableError(path, "damaged", f"{announced}: {str(error) or type(error).__name__}") from None
    if full[0] * full[1] > KEPT_PIXELS:
        sizes = {"width": full[0], "height": full[1], "small": "{}x{}".format(*image.size)}
        more += (("reduced", _("{width}x{height} px, read at {small} px", **sizes)),)
    return (image.transpose(turn) if turn is not None else image), (*notes, *more)


def _turn(image: Image.Image) -> tuple[Image.Transpose | None, Notes]:
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)), ()
    except _DECODER_ERRORS as error:
        return None, (("exif-ignored", str(error) or type(error).__name__),)


def _load(image: Image.Image) -> Notes:
    """Decode the first frame, or where that is blank the first one that is not; JPEGs at a fraction of a very large size."""
    if image.format == "JPEG" and (factor := _factor(image)) > 1:
        image.draft(image.mode, (image.width // factor, image.height // factor))
    image.load()
    if image.format not in _SEQUENCES:
        return ()
    try:
        count = int(getattr(image, "n_frames", 1))
    except _DECODER_ERRORS:
        # Of frames behind the first, which is whole.
        return ()
    if count == 1:
        return ()
    most = max(1, min(count, _FRAMES, _FRAME_PIXELS // (image.width * image.height)))
    chosen = next((frame for frame in range(most) if _shows_something(image, frame)), 0)
    image.seek(chosen)
    image.load()
    return (("frames", _("frame {frame} of {count}", frame=chosen + 1, count=count)),)


def _shows_something(image: Image.Image, frame: int) -> bool:
    """Whether a frame is whole and not of one colour, and no thumbnail of another page."""
    try:
        image.seek(frame)
        if int(getattr(image, "tag_v2", {}).get(254, 0)) & _IS_REDUCED:
            return False
        rgba = image.convert("RGBA")
    except _DECODER_ERRORS:
        return False
    seen = Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba)
    return bool(np.asarray(seen.convert("L")).std() >= _BLANK)


def _factor(image: Image.Image) -> int:
    return math.ceil(math.sqrt(max(1.0, image.width * image.height / KEPT_PIXELS)))


def _reduced(image: Image.Image) -> Image.Image:
    """A very large image made smaller strip by strip, means of its pixels; others as they are."""
    if (factor := _factor(image)) == 1:
        return image
    clear = "transparency" in image.info
    mode = {"P": "RGBA" if clear else "RGB", "PA": "RGBA", "1": "L", "YCbCr": "RGB"}.get(image.mode, image.mode)
    parts = []
    for top in range(0, image.height, _STRIP * factor):
        strip = image.crop((0, top, image.width, min(top + _STRIP * factor, image.height)))
        parts.append(_reduced_16(strip, factor) if mode.startswith("I;16") else strip.convert(mode).reduce(factor))
    small = Image.new(parts[0].mode, (parts[0].width, sum(part.height for part in parts)))
    for place, part in enumerate(parts):
        small.paste(part, (0, place * _STRIP))
    # A colour that stands for transparency is mixed with others by now.
    small.info = {key: value for key, value in image.info.items() if key != "transparency" or mode == image.mode == "L"}
    return small


def _reduced_16(strip: Image.Image, factor: int) -> Image.Image:
    pixels = np.asarray(strip).astype(np.float32)
    rows, columns = (np.arange(0, side, factor) for side in pixels.shape)
    sums = np.add.reduceat(np.add.reduceat(pixels, rows, 0), columns, 1)
    sizes = [np.diff([*starts, side]) for starts, side in zip((rows, columns), pixels.shape, strict=True)]
    means = sums / np.outer(*sizes)
    return Image.fromarray(means.round().astype(np.uint16))


def _srgb(image: Image.Image, path: Path) -> tuple[Image.Image, Image.Image | None, Notes]:
    """To 8-bit sRGB on the background, and the transparency that it had."""
    icc: bytes | None = image.info.get("icc_profile")
    alpha: Image.Image | None = None
    if image.mode.startswith("I;16"):
        # 65535 to 255 with rounding: Pillow's own conversion clips at 255.
        value, clear = np.asarray(image).astype(np.uint32), image.info.get("transparency")
        image = Image.fromarray(((value * 255 + 32767) // 65535).astype(np.uint8))
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(value == clear, 0, 255).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image, alpha = rgba.convert("RGB"), rgba.getchannel("A")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode in ("P", "YCbCr", "RGBX"):
        image = image.convert("RGB")
    if image.mode not in ("RGB", "L", "CMYK"):
        # 32-bit and float pixels have no agreed white; guessing one would clip or dim the image in silence.
        words = _("Its pixels are of kind {mode}; save it with 8 or 16 bits, RGB or grey.", mode=image.mode)
        raise UnusableError(path, "unsupported", words)
    notes: tuple[tuple[str, str], ...] = ()
    if icc:
        image, problem = _to_srgb(image, icc)
        notes = (("profile-ignored", problem),) if problem else ()
    # CMYK without a profile: R = (1-C)(1-K). Pillow has undone Adobe's inverted JPEGs by then.
    image = image.convert("RGB")
    if alpha is not None:
        image = Image.composite(image, Image.new("RGB", image.size, BACKGROUND), alpha)
    image.info = {}
    return image, alpha, notes


def _to_srgb(image: Image.Image, icc: bytes) -> tuple[Image.Image, str]:
    """Through the embedded profile to sRGB; or the image as it was and why."""
    modes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = str(profile.profile.xcolor_space).strip()
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        if modes.get(space) != image.mode:
            return image, _("a {space} profile in an image of kind {mode}", space=space, mode=image.mode)
        srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
        # Unoptimised: lcms' tables for grey profiles are off by 10 of 255 in the dark (measured, linear grey).
        flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE
        transform = ImageCms.buildTransform(profile, srgb, image.mode, "RGB", intent, flags)
        if image.mode == "RGB" and _changes_nothing(transform):
            return image, ""
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        return image, str(error) or type(error).__name__
    return (converted, "") if converted is not None else (image, _("no conversion"))


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether it is sRGB by another name, as in most files with a profile: a conversion would only cost time."""
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    grey = np.arange(256, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    colours = np.concatenate([cube, np.stack([grey] * 3, axis=-1)[None]], axis=1)
    converted = ImageCms.applyTransform(Image.fromarray(colours), transform)
    return converted is not None and bool(np.abs(np.asarray(converted, np.int16) - colours).max() <= 1)
