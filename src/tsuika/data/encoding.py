"""Bytes of a text file to text, whatever encoding they are in; what is not plausible in any is not guessed.

Captions are short, and a short text can be read in many encodings. So each reading is judged by its characters: letters
of common use in one script, standing as they do in words. What no such reading explains is left to charset-normalizer.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from tsuika.core.texts import _

_MARKS: Final = (
    *((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe\0\0", "utf-32"), (b"\0\0\xfe\xff", "utf-32")),
    *((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")),
)
# Encoding, bytes of a character.
_WIDE: Final = (("utf-32-le", 4), ("utf-32-be", 4), ("utf-16-le", 2), ("utf-16-be", 2))
# In order of preference among equals.
_TRIED: Final = ("cp932", "euc_jp", "cp949", "gb18030", "big5", "cp1252", "utf-16-le", "utf-16-be")
# Lead bytes of the characters in common use: KS X 1001 Hangul, GB 2312 level 1, Big5 level 1, JIS X 0208 level 1.
_COMMON: Final = {"cp949": (0xB0, 0xC8), "gb18030": (0xB0, 0xD7), "big5": (0xA4, 0xC6), "euc_jp": (0xB0, 0xCF)}
_COMMON_CP932: Final = ("\x88\x9f".encode("latin-1"), "\x98\x72".encode("latin-1"))
_WESTERN: Final = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüýßœÀÁÂÄÅÆÇÈÉÊÍÎÑÓÔÖØÙÚÜŒŠšŽž")
_SIGNS: Final = frozenset("‘’“”–—…•°©®™×½¼¾²³£€§«»¿¡·±\xa0")
# For charset-normalizer: what people save text files in, beside the above.
_OTHERS: Final = ("cp1251", "koi8_r", "cp1250", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "cp1257", "cp1258")
_MOST_ODD: Final = 0.29  # share of characters that do not fit; above it a reading is not plausible
# Unicode categories: controls, private use, unassigned, surrogates.
_NO_TEXT: Final = frozenset({"Cc", "Co", "Cn", "Cs"})
_LETTERS: Final = re.compile(rb"[\0\t\n\r ',.\-\w]*")
_HAN: Final = re.compile("[\0-\x7f\u4e00-\u7eff]*[\u4e00-\u7eff][\0-\x7f\u4e00-\u7eff]*")
_LEAST_LETTERS: Final = 4  # beyond ASCII, for a guess between alphabets
_POOLED_BYTES: Final = 1 << 16


def decode(content: bytes, usual: str = "") -> tuple[str, str]:
    """Text, and the encoding that it was read in.

    A byte order mark decides, else UTF-8 if it is that, else what is most plausible.

    Args:
        content: the bytes of a file.
        usual: the encoding of its neighbours (`usual_encoding`), taken where it explains these bytes, too.

    Raises:
        ValueError: plausible in no encoding, or no text at all.
    """
    if found := _certain(content):
        return found
    if usual and (text := _decoded(content, usual)) is not None and _oddness(text, usual) <= _MOST_ODD:
        return text, usual
    return _most_plausible(content)


def usual_encoding(contents: Iterable[bytes]) -> str:
    """The encoding of files that belong together and are not UTF-8: more text tells more. Empty: none is needed or found."""
    pooled = b""
    for content in contents:
        if len(pooled) < _POOLED_BYTES and _certain(content) is None:
            pooled += content.strip() + b"\n"
    try:
        return _most_plausible(pooled)[1] if pooled.count(b"\n") > 1 else ""
    except ValueError:
        return ""


def _certain(content: bytes) -> tuple[str, str] | None:
    """What needs no guess."""
    for mark, encoding in _MARKS:
        if content.startswith(mark) and (text := _decoded(content, encoding)) is not None:
            return text, encoding
    if b"\0" in content:
        return _wide(content)
    if b"\x1b$" in content and (text := _decoded(content, "iso2022_jp")) is not None:
        return text, "iso2022_jp"
    text = _decoded(content, "utf-8")
    return None if text is None else (text, "utf-8")


def _wide(content: bytes) -> tuple[str, str] | None:
    """UTF-16 or UTF-32 without a mark: zeros at every second or fourth byte, of the letters and spaces that are ASCII, and
    in the other byte of the wide space and of 1 in 256 kanji."""
    found: list[tuple[float, str, str]] = []
    for encoding, unit in _WIDE:
        text = _decoded(content, encoding) if len(content) % unit == 0 else None
        # Pairs of plain letters make Chinese characters: that is text with a stray zero.
        if text is None or "\0" in text or (_LETTERS.fullmatch(content) and _HAN.fullmatch(text)):
            continue
        if any(_odd_eastern(text, place, "utf-16") for place, sign in enumerate(text) if not ord(sign) % 256):
            continue
        # Of an alphabet the letters tell; of characters that any two bytes make, how common they are.
        odd = _oddness(text, encoding) if max(text) >= "\u2e80" else _odd_letters(text)
        found.append((odd, text, encoding))
    best = min(found, key=lambda one: one[0], default=None)
    return best[1:] if best and best[0] <= _MOST_ODD else None


def _decoded(content: bytes, encoding: str) -> str | None:
    try:
        return content.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None


def _most_plausible(content: bytes) -> tuple[str, str]:
    if b"\0" in content:
        raise ValueError(_("it holds zeros, as no text does"))
    read = ((_decoded(content, encoding), encoding) for encoding in _TRIED)
    found = [(_oddness(text, encoding), text, encoding) for text, encoding in read if text is not None]
    if found and (best := min(found, key=lambda one: one[0]))[0] <= _MOST_ODD:
        return best[1:]
    from charset_normalizer import from_bytes

    guess = from_bytes(content, cp_isolation=list(_OTHERS)).best()
    beyond = sum(sign.isalpha() and not sign.isascii() for sign in str(guess or ""))
    if guess is None or beyond < _LEAST_LETTERS or _oddness(str(guess), guess.encoding) > _MOST_ODD:
        raise ValueError(_("it is plausible text in no encoding"))
    return str(guess), guess.encoding


def _oddness(text: str, encoding: str) -> float:
    """Share of the characters beyond ASCII that this reading does not explain, 0..1; 1 where there are controls."""
    if any(unicodedata.category(sign) in _NO_TEXT and sign not in "\t\r\n\f" for sign in text):
        return 1.0
    places = [place for place, sign in enumerate(text) if not sign.isascii()]
    if not places:
        return 0.0 if not encoding.startswith("utf-16") else 1.0
    if encoding in _OTHERS:
        return _odd_letters(text)
    if encoding == "cp1252":
        odd = sum(_odd_western(text, place) for place in places) / len(places)
        return odd if re.search("[A-Za-z]{2}", text) or len(places) > 2 else odd + 0.2
    has_kana = any(_is_kana(text[place]) for place in places)
    odd = sum(_odd_eastern(text, place, encoding) for place in places) / len(places)
    # Chinese has no kana, and its standards know them; Japanese without any is rare.
    if encoding in ("gb18030", "big5", "cp949") and has_kana:
        odd += 0.5
    if encoding in ("cp932", "euc_jp") and not has_kana:
        odd += 0.1 if encoding == "cp932" else 0.2
    if encoding.startswith("utf-16"):
        odd += 0.2
    # One character by itself is one in any of these.
    return odd + 0.3 if len(places) == 1 and encoding != "cp932" else odd


def _odd_western(text: str, place: int) -> float:
    sign = text[place]
    if sign in _SIGNS:
        return 0.0
    if sign not in _WESTERN:
        return 1.0
    around = text[max(0, place - 1) : place] + text[place + 1 : place + 2]
    # An accented letter stands among plain ones.
    return 0.0 if any(one.isascii() and one.isalpha() for one in around) else 0.2 if not around.strip() else 1.0


def _odd_eastern(text: str, place: int, encoding: str) -> float:
    sign = text[place]
    if "\uff61" <= sign <= "\uff9f":
        before, after = text[max(0, place - 1) : place], text[place + 1 : place + 2]
        # Half-width kana stand in words of their own; single ones are some other encoding's letter.
        return 0.2 if any("\uff61" <= one <= "\uff9f" for one in (before, after) if one) else 1.0
    if _is_kana(sign) or "\u3000" <= sign <= "\u303f" or "\uff01" <= sign <= "\uff5e":
        return 0.0
    if "\uac00" <= sign <= "\ud7a3":
        return 0.0 if encoding.startswith("utf-16") else _odd_lead(sign, encoding)
    if not "\u4e00" <= sign <= "\u9fff":
        return 0.0 if sign in _SIGNS else 1.0
    if encoding == "cp949":
        return 1.0
    before, after = text[max(0, place - 1) : place], text[place + 1 : place + 2]
    torn = sum(one.isascii() and one.isalnum() for one in (before, after) if one)
    if encoding.startswith("utf-16"):
        common = any(_odd_lead(sign, one) == 0 for one in ("cp932", "gb18030", "big5"))
        return max(0.0 if common else 1.0, torn / 2)
    return max(_odd_lead(sign, encoding), torn / 2)


def _odd_lead(sign: str, encoding: str) -> float:
    """1 for a character outside of the part of its standard that is in common use."""
    try:
        stored = sign.encode(encoding)
    except UnicodeEncodeError:
        return 1.0
    if encoding == "cp932":
        low, high = _COMMON_CP932
        return 0.0 if low <= stored <= high else 1.0
    low_lead, high_lead = _COMMON[encoding]
    return 0.0 if low_lead <= stored[0] <= high_lead and (encoding == "big5" or stored[1] >= 0xA1) else 1.0


def _odd_letters(text: str) -> float:
    """Share of the characters beyond ASCII that are not letters of the script that most of them are of."""
    beyond = [sign for sign in text if not sign.isascii() and sign not in _SIGNS]
    if any(unicodedata.category(sign) in _NO_TEXT for sign in beyond):
        return 1.0
    if not beyond:
        return 0.0
    scripts = [unicodedata.name(sign, "?").split()[0] if sign.isalpha() else "?" for sign in beyond]
    most = max(set(scripts), key=scripts.count)
    # A capital after a small letter: `кОТ` is a reading gone wrong.
    mixed = sum(not two.isascii() and two.isupper() and one.islower() for one, two in pairwise(text))
    return 1.0 if most == "?" else (len(beyond) - scripts.count(most) + mixed) / len(beyond)


def _is_kana(sign: str) -> bool:
    return "\u3041" <= sign <= "\u30ff"
