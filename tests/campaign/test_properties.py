"""What readers of texts and tables promise for any text and table: their value, or an error of ours.

A few examples in the plain suite; `make campaign` sets EXAMPLES and the seed, which is printed.
"""

from __future__ import annotations

import json
import os
import pickle
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tsuika import config
from tsuika.core.errors import TsuikaError
from tsuika.core.plain import jsonable
from tsuika.core.weights import load_pickle, open_weights
from tsuika.data import caption_files, encoding
from tsuika.data.folder import walk
from tsuika.generation import axes, png_info, prompt

EXAMPLES = int(os.environ.get("EXAMPLES", "25"))
some = settings(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)

MARKS = [
    *"()[]{}<>:|,=\\\"' \n\t\x00",
    "<lora:",
    "<hypernet:",
    "BREAK",
    "AND",
    "cat",
    "0.5",
    "1e999",
    "-",
    "nan",
    "\\(",
    "猫",
    "\ud800",
    "[a:b:",
]
prompts = st.lists(st.sampled_from(MARKS), max_size=25).map("".join) | st.text(max_size=60)
numbers = st.integers() | st.floats() | st.sampled_from([2**63, 2**64, 10**400, -1, 0])
leaves = (
    st.none() | st.booleans() | numbers | st.text(max_size=20) | st.sampled_from(["", "nan", "auto", "../x", "\x00"])
)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def either(work: Any) -> Any:
    """Its value, or None where it says what is wrong in an error of ours, shown in full."""
    try:
        return work()
    except TsuikaError as error:
        assert 2 <= error.exit_status <= 8 and len(error.describe()) < 4000
        return None


@some
@given(prompts, st.integers(1, 50))
def test_prompts(text: str, steps: int) -> None:
    parsed = either(lambda: prompt.parse(text))
    if parsed is not None:
        assert all(weighted.weight == weighted.weight for section in parsed.sections for weighted in section)
    planned = either(lambda: prompt.plan(text, steps))
    if planned is not None:
        moments = [moment for moment, _text in planned]
        assert moments == sorted(set(moments)) and moments[-1] == steps
    either(lambda: prompt.without_tags(text))


@some
@given(st.lists(st.sampled_from([*string.ascii_letters, *" .-'"]), max_size=30).map("".join))
def test_a_prompt_without_syntax_is_itself(text: str) -> None:
    assert prompt.parse(text).text.strip() == text.strip()


@some
@given(
    st.lists(
        st.sampled_from(
            [*MARKS, "Steps: ", "Seed: ", "Size: ", "CFG scale: ", "Lora hashes: ", "Negative prompt:", "[[[[", '{"a":']
        ),
        max_size=25,
    ).map("".join)
)
def test_how_an_image_was_made_is_read_from_any_text(text: str) -> None:
    json.dumps(jsonable(vars(png_info.from_text(text))), allow_nan=False)


WORDS = st.text(string.ascii_letters + " .-_", min_size=1, max_size=12).map(str.strip).filter(bool)
HASHES = st.dictionaries(WORDS, st.text("0123456789abcdef", min_size=1, max_size=12), max_size=3)


@some
@given(
    st.builds(
        png_info.GenerationInfo,
        prompt=WORDS,
        negative=WORDS | st.just(""),
        steps=st.integers(1, 10**6),
        sampler=st.sampled_from(["Euler a", "DPM++ 2M Karras"]),
        cfg=st.floats(-1e6, 1e6).map(lambda value: float(f"{value:.12g}")),
        seed=st.integers(0, 2**64),
        size_px=st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
        model=st.text(min_size=1).map(str.strip).filter(lambda text: text and "\x00" not in text),
        lora_hashes=HASHES,
        ti_hashes=HASHES,
    )
)
def test_how_an_image_was_made_is_written_and_read_back(info: png_info.GenerationInfo) -> None:
    assert png_info.from_text(png_info.to_text(info)) == info


KEYS = sorted({one.key for one in config.settings()})


@some
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), trees, max_size=4))
def test_recipes(tables: Mapping[str, Any]) -> None:
    recipe = either(lambda: config.build(config.override({}, tables), where="x"))
    if recipe is not None:
        import tomlkit

        assert config.build(tomlkit.parse(config.dump(recipe)).unwrap()) == recipe


@some
@given(st.text(max_size=40) | st.sampled_from(KEYS).flatmap(lambda key: prompts.map(lambda text: f"{key}={text}")))
def test_settings_in_a_line(text: str) -> None:
    either(lambda: config.parse_assignment(text))
    either(lambda: axes.parse_axis(text))


TRAINING = [
    "network_dim",
    "network_args",
    "network_module",
    "optimizer_args",
    "unet_lr",
    "learning_rate",
    "resolution",
    "max_train_steps",
    "LoRA_type",
    "max_resolution",
    "seed",
    "dataset_config",
    "pretrained_model_name_or_path",
    "datasets",
    "general",
    "train_data_dir",
    "epoch",
    "lr_scheduler",
]


@some
@given(st.dictionaries(st.sampled_from(TRAINING), trees, min_size=1, max_size=6))
def test_settings_of_other_programs(tmp_path: Path, tables: Mapping[str, Any]) -> None:
    (tmp_path / "gui.json").write_text(json.dumps({"LoRA_type": "Standard", "network_dim": 4, **tables}))
    either(lambda: config.load(tmp_path / "gui.json"))


ROWS = st.dictionaries(st.sampled_from(["file_name", "text", "caption", "tags", "0.png", "0"]), trees, max_size=4)


@some
@given(
    st.sampled_from(["metadata.jsonl", "metadata.csv", "x.tsv", "meta_cap.json", "0.json", "0.txt"]),
    st.lists(ROWS | trees, max_size=4) | trees | prompts,
    st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]),
)
def test_captions(tmp_path: Path, name: str, content: Any, how: str) -> None:
    place = tmp_path / name
    place.mkdir(exist_ok=True)
    (place / "0.png").write_bytes(b"x")
    text = (
        content
        if isinstance(content, str)
        else "\n".join(map(json.dumps, content))
        if name.endswith("jsonl") and isinstance(content, list)
        else json.dumps(content)
    )
    (place / name).write_bytes(text.encode(how, "surrogatepass"))
    listing = walk(place)
    found, notes = caption_files.find(listing.images, listing).caption("0.png")
    for _code, words in notes:
        str(words)
    if found is not None:
        assert found.lines and all(line == line.strip() and line for line in found.lines)


@some
@given(st.binary(max_size=200))
def test_any_bytes_are_some_text(content: bytes) -> None:
    try:
        text, how = encoding.decode(content)
    except ValueError:
        return
    assert isinstance(text, str) and how


@some
@given(
    trees
    | st.dictionaries(
        st.text(max_size=10),
        st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["F32", "U8", "X"]) | leaves,
                "shape": st.lists(numbers, max_size=3) | leaves,
                "data_offsets": st.lists(numbers, max_size=3) | leaves,
            }
        ),
        max_size=3,
    ),
    st.binary(max_size=64),
)
def test_headers(tmp_path: Path, header: Any, data: bytes) -> None:
    raw = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    opened = either(lambda: open_weights(path))
    if opened is not None:
        either(opened.load)


OPCODES = st.lists(
    st.sampled_from(
        [
            bytes([one])
            for one in b"(.0123FGIJKLMNPQRSTUVX]abcdeghjlopqrstu}"
            b"\x80\x81\x82\x83\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8e\x8f\x90\x91\x92\x93\x94\x95"
        ]
    )
    | st.binary(max_size=5)
    | st.sampled_from([b"cos\nsystem\n", b"ccollections\nOrderedDict\n", b"X\x03\x00\x00\x00abc", b"K\x01"]),
    max_size=30,
).map(b"".join)


@some
@given(OPCODES | st.tuples(trees, st.integers(2, 5)).map(lambda pair: pickle.dumps(pair[0], protocol=pair[1])))
def test_pickles(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pt"
    path.write_bytes(content if content.startswith(b"\x80") else b"\x80\x02" + content)
    opened = either(lambda: open_weights(path))
    if opened is not None:
        either(opened.load)
    either(lambda: load_pickle(path))
