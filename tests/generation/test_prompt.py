"""The prompt syntax as properties."""

from __future__ import annotations

import itertools
import random

import pytest

from tsuika.core.errors import RecipeError
from tsuika.generation.prompt import Prompt, Tag, Weighted, parse, plan

JAPANESE = "白い砂浜、夕焼け、ついか犬（正面）・高画質"


@pytest.mark.parametrize("tag", ["<lora:cat:1", "< lora:cat:1>", "<lora:>", "<lora>", "<HYPERNET cat:1>"])
def test_what_is_meant_as_a_tag_and_is_none_is_said(tag: str) -> None:
    read = parse(f"a {tag}")
    assert not read.tags and [one.strip() for one in read.ignored] == [tag]


def test_other_angles_are_no_tags() -> None:
    assert not parse("a cat <3, 1 < 2, <lorax tree").ignored


def weights(prompt: Prompt) -> list[tuple[str, float]]:
    return [(part.text, pytest.approx(part.weight)) for section in prompt.sections for part in section]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a (b) c", [("a ", 1), ("b", 1.1), (" c", 1)]),
        ("((b))", [("b", 1.21)]),
        ("(b:1.3)", [("b", 1.3)]),
        ("( b : 1.3 )", [(" b ", 1.3)]),
        ("[b]", [("b", 1 / 1.1)]),
        ("(a [b] c:1.5)", [("a ", 1.5), ("b", 1.5 / 1.1), (" c", 1.5)]),
        ("(a (b:2) c:0.5)", [("a ", 0.5), ("b", 1.0), (" c", 0.5)]),
        (r"a \(b\) \[c\] \\", [(r"a (b) [c] " + "\\", 1)]),
        (r"(a \(b\):1.2)", [("a (b)", 1.2)]),
        ("(b:-1)", [("b", -1)]),
        ("(b:.5)", [("b", 0.5)]),
        ("a:b, 16:9", [("a:b, 16:9", 1)]),
        ("a:1.3)", [("a:1.3)", 1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("a) b]", [("a) b]", 1)]),
        ("a (b", [("a ", 1), ("b", 1.1)]),
        ("a [b", [("a ", 1), ("b", 1 / 1.1)]),
        ("", [("", 1)]),
        (JAPANESE, [(JAPANESE, 1)]),
        (f"({JAPANESE}:0.7)", [(JAPANESE, 0.7)]),
    ],
)
def test_weights(source: str, expected: list[tuple[str, float]]) -> None:
    assert weights(parse(source)) == expected


def test_nested_weights_multiply() -> None:
    rng = random.Random(0)
    for _ in range(50):
        factors = [rng.choice([0.5, 0.8, 1.2, 2.0]) for _ in range(rng.randint(1, 6))]
        product = 1.0
        source = "x"
        for factor in factors:
            source = f"({source}:{factor})"
            product *= factor
        assert weights(parse(source)) == [("x", product)]


def test_anything_is_read_and_nothing_is_invented() -> None:
    rng = random.Random(1)
    letters = ["(", ")", "[", "]", ":", "1.3", "\\", " ", "猫", "a", ",", "<", ">", "|", "BREAK", "\n", ":1.1)", "é"]
    for _ in range(2000):
        source = "".join(rng.choice(letters) for _ in range(rng.randint(0, 14)))
        prompt = parse(source)
        assert prompt.sections
        for section in prompt.sections:
            assert section
            for one, two in itertools.pairwise(section):
                assert one.weight != two.weight
        for letter in "猫aé":
            assert prompt.text.count(letter) <= source.count(letter)


def test_plain_text_comes_back_as_it_was() -> None:
    rng = random.Random(2)
    letters = [*"abc ,.-:0123猫犬ァーがぎ\n|é'\"!", r"C:\dir"]
    for _ in range(500):
        source = "".join(rng.choice(letters) for _ in range(rng.randint(0, 30)))
        assert parse(source).text == source
        assert parse(source).is_plain
        hidden = source.replace("\\", "\\\\")
        escaped = parse(f"{hidden}\\(x\\)")
        assert escaped.text == f"{source}(x)"


def test_break_separates_and_keeps_weights() -> None:
    prompt = parse("a, (b BREAK c:1.2) BREAK")
    assert prompt.sections == ((Weighted("a, "), Weighted("b", 1.2)), (Weighted("c", 1.2),), (Weighted(""),))
    assert not prompt.is_plain
    assert parse("BREAKFAST, unBREAKable").is_plain


@pytest.mark.parametrize(
    ("source", "tag"),
    [
        ("<lora:name:0.8>", Tag("lora", "name", 0.8, 0.8)),
        ("<lora:name>", Tag("lora", "name", 1.0, 1.0)),
        ("<lora:name:0.5:0.9>", Tag("lora", "name", 0.9, 0.5)),
        ("<lora:name:te=0.5:unet=0.9>", Tag("lora", "name", 0.9, 0.5)),
        ("<lora:ついか ちゃん v1.0:-1>", Tag("lora", "ついか ちゃん v1.0", -1, -1)),
        ("<hypernet:style:0.6>", Tag("hypernet", "style", 0.6, 0.6)),
    ],
)
def test_tags_are_taken_out(source: str, tag: Tag) -> None:
    prompt = parse(f"a {source}b")
    assert prompt.tags == (tag,)
    assert prompt.text == "a b"
    assert prompt.ignored == ()


def test_what_is_not_done_is_told() -> None:
    assert parse("<lyco:x:1> a").ignored == ("<lyco:x:1>",)
    assert parse("a AND b").ignored == ("AND",)
    assert parse(r"\[a|b\] [c]").ignored == ()


@pytest.mark.parametrize(
    ("source", "text", "words"),
    [
        ("a embedding:cat on", "a cat on", ("cat",)),
        ("embedding:cat, (embedding:dog:1.2)", "cat, dog", ("cat", "dog")),
        ("embedding:sub/cat.safetensors", "cat", ("cat",)),
        ("[embedding:cat.pt:0.5]", "cat:0.5", ("cat",)),
        ("my embedding: a cat", "my embedding: a cat", ()),
        ("unembedding:cat", "unembedding:cat", ()),
    ],
)
def test_comfyuis_spelling_of_a_word(source: str, text: str, words: tuple[str, ...]) -> None:
    assert (parse(source).text, parse(source).words) == (text, words)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a [cat:dog:0.5] b", ((5, "a cat b"), (10, "a dog b"))),
        ("[cat:0.3]", ((3, ""), (10, "cat"))),
        ("[cat::0.3]", ((3, "cat"), (10, ""))),
        ("[cat:dog:4]", ((4, "cat"), (10, "dog"))),
        ("[cat:dog:1.0]", ((10, "cat"),)),
        ("[cat:dog:1]", ((1, "cat"), (10, "dog"))),
        ("[cat:dog:99]", ((10, "cat"),)),
        ("[cat:dog:0]", ((10, "dog"),)),
        ("[a [b:c:0.2]:d:0.5]", ((2, "a b"), (5, "a c"), (10, "d"))),
        ("[(red:1.2):blue:.5]", ((5, "(red:1.2)"), (10, "blue"))),
        ("[cat]", ((10, "[cat]"),)),
        ("[[cat]:dog:0.5]", ((5, "[cat]"), (10, "dog"))),
        ("[cat:dog]", ((10, "[cat:dog]"),)),
        (r"\[cat:dog:0.5\]", ((10, r"\[cat:dog:0.5\]"),)),
        ("a [b", ((10, "a [b"),)),
        (JAPANESE, ((10, JAPANESE),)),
    ],
)
def test_editing_changes_the_text_at_a_step(source: str, expected: tuple[tuple[int, str], ...]) -> None:
    assert plan(source, 10) == expected


@pytest.mark.parametrize("source", [f"a (cat:{'9' * 400})", f"a ((cat:{'9' * 300}):{'9' * 300})"])
def test_a_weight_without_bounds_is_an_error(source: str) -> None:
    """The image would be black."""
    with pytest.raises(RecipeError, match="cat") as error:
        parse(source)
    assert error.value.code == "RC002"


def test_a_step_far_beyond_the_last_is_never_reached() -> None:
    assert plan(f"[cat:dog:{'9' * 400}]", 3) == ((3, "cat"),)


def test_alternatives_take_turns() -> None:
    assert [text for _last, text in plan("[a|b|]x", 4)] == ["ax", "bx", "x", "ax"]
    assert [last for last, _text in plan("[a|b]", 3)] == [1, 2, 3]


@pytest.mark.parametrize("source", ["<lora:x:much>", "<lora:x:nan>", "<lora:x:te=>"])
def test_a_strength_that_is_no_number_is_an_error(source: str) -> None:
    with pytest.raises(RecipeError) as error:
        parse(source)
    assert error.value.code == "RC002"
    assert source in error.value.describe("ja")
