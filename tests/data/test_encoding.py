"""Text files in the encodings that people save captions in."""

from __future__ import annotations

import pytest

from tsuika.data.encoding import decode, usual_encoding

TEXTS = {
    "cp1252": [
        "a woman’s hat",
        "a mug at 45°, café table",
        "naïve façade – “quoted”",
        "el niño, ¿dónde?",
        "Straße, Öl",
    ],
    "cp949": ["빨간 모자를 쓴 소녀, 바다", "강아지가 해변에서 뛰고 있다", "1girl, 빨간 머리", "고양이"],
    "big5": ["一個戴紅帽的女孩, 海邊", "貓在屋頂上", "1girl, 紅色頭髮"],
    "gb18030": ["一个戴红帽的女孩, 海边", "1girl, 红色头发", "女孩，蓝天"],
    "cp932": ["赤い帽子の女の子, 海辺", "赤い帽子, ソ表", "ｱﾆﾒ 女の子", "1girl、赤い髪", "SD画像, 高品質", "犬"],
    "euc_jp": ["赤い帽子の女の子, 海辺", "犬が走る"],
    "iso2022_jp": ["赤い帽子の女の子"],
    "cp1251": ["девочка в красной шляпе"],
    "cp1253": ["κορίτσι με καπέλο"],
    "utf-16-le": ["a red hat", "赤い帽子の女の子", "빨간 모자", "девочка в шляпе", "café"],
    "utf-16-be": ["a red hat", "赤い帽子の女の子"],
    "utf-32-le": ["a red hat"],
    "utf-8": ["a woman’s hat", "赤い", "빨간"],
}


@pytest.mark.parametrize("encoding", TEXTS)
def test_short_captions_are_read_as_they_were_written(encoding: str) -> None:
    for text in TEXTS[encoding]:
        assert decode(text.encode(encoding))[0] == text


@pytest.mark.parametrize(
    ("encoding", "short"),
    [("gb18030", "小女孩"), ("big5", "貓咪"), ("cp1251", "кот"), ("cp949", "소녀"), ("euc_jp", "犬と猫")],
)
def test_neighbours_tell_the_encoding_of_a_very_short_one(encoding: str, short: str) -> None:
    usual = usual_encoding([short.encode(encoding), *(text.encode(encoding) for text in TEXTS[encoding])])
    assert decode(short.encode(encoding), usual) == (short, usual)


def test_neighbours_of_another_encoding_change_nothing() -> None:
    for text in (*TEXTS["utf-8"], *TEXTS["utf-16-le"][:1]):
        for form in ("utf-8", "utf-8-sig", "utf-16"):
            assert decode(text.encode(form), "cp932")[0] == text
    assert decode("a woman’s hat".encode("cp1252"), "cp949")[0] == "a woman’s hat"


@pytest.mark.parametrize("content", [bytes(range(256)), b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\x81 \x82"])
def test_what_is_no_text_is_not_guessed(content: bytes) -> None:
    with pytest.raises(ValueError, match="it "):
        decode(content)


@pytest.mark.parametrize("text", ["a zuzu\0cat", "\0a cat x", "red, blue\0\0 hat"])
def test_a_stray_zero_does_not_make_chinese_of_english(text: str) -> None:
    with pytest.raises(ValueError, match="zeros"):
        decode(text.encode())


@pytest.mark.parametrize(
    "text", ["漢字 a", "二匹の猫 cat", "девочка a", "一匹の猫", "一人の女の子, smile", "最初の言葉", "赤い\u3000帽子"]
)
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_with_plain_letters_in_it_is_read(text: str, encoding: str) -> None:
    assert decode(text.encode(encoding)) == (text, encoding)
