"""Encoders: the yardstick reads its world's prompts; CLIP, SigLIP and DINOv2 are opened as others write them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tsuika.core.errors import ModelError, NetworkError
from tsuika.embedded import mascot
from tsuika.evaluation import encoders
from tsuika.evaluation.encoders import Encoder, Transformer, named

sys.path.append(str(Path(__file__).parents[1] / "families"))
from family_files import write_tokenizer

CPU = torch.device("cpu")
START, END = 192, 193  # of the tokenizer that tests write
SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SEEING = {**SMALL, "image_size": 16, "patch_size": 8}
READING = {
    **SMALL,
    "vocab_size": 200,
    "max_position_embeddings": 12,
    "bos_token_id": START,
    "eos_token_id": END,
    "pad_token_id": END,
}


def write(folder: Path, kind: str) -> Path:
    """A tiny encoder with random weights, as its makers publish theirs."""
    import transformers as tf

    torch.manual_seed(1)
    model, processor = {
        "clip": lambda: (
            tf.CLIPModel(tf.CLIPConfig(text_config=READING, vision_config=SEEING, projection_dim=8)),
            "CLIP",
        ),
        "siglip": lambda: (tf.SiglipModel(tf.SiglipConfig(text_config=READING, vision_config=SEEING)), "Siglip"),
        "dinov2": lambda: (tf.Dinov2Model(tf.Dinov2Config(**{**SEEING, "mlp_ratio": 1})), "Bit"),
    }[kind]()
    model.save_pretrained(folder)
    side = {"height": 16, "width": 16}
    settings = {
        "image_processor_type": f"{processor}ImageProcessor",
        "size": side,
        "crop_size": side,
        "do_resize": True,
        "do_normalize": True,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if kind != "dinov2":
        write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module", params=("clip", "siglip", "dinov2"))
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return encoders.load(str(write(tmp_path_factory.mktemp(request.param), request.param)), CPU)


PICTURES = [Image.fromarray(one.pixels) for one in mascot.pictures(3)]


def test_pictures_become_unit_vectors_whatever_their_company(encoder: Encoder) -> None:
    vectors = encoder.subjects(PICTURES)
    assert vectors.shape[0] == 3 and np.allclose(np.linalg.norm(vectors, axis=1), 1)
    assert np.allclose(encoder.subjects(PICTURES[1:2]), vectors[1:2], atol=1e-5)
    assert np.allclose(encoder.scenes(PICTURES), vectors)
    assert not np.allclose(vectors[0], vectors[1])


def test_only_what_has_a_text_tower_reads(encoder: Encoder) -> None:
    assert encoder.reads == ("dinov2" not in encoder.name)
    if encoder.reads:
        fit = encoder.fit(PICTURES, ["a cat", "a dog, and words that go on and on and on for longer than it reads"])
        assert fit.shape == (3, 2) and np.isfinite(fit).all() and (np.abs(fit) <= 1 + 1e-9).all()
        assert not np.allclose(fit[:, 0], fit[:, 1])
        assert np.allclose(encoder.fit(PICTURES, ["a cat"]), fit[:, :1], atol=1e-5)


def test_the_numbers_are_those_of_the_model_itself(tmp_path: Path) -> None:
    """CLIP's own cosine, which is its logit without the scale."""
    from transformers import CLIPModel

    clip = encoders.load(str(write(tmp_path, "clip")), CPU)
    assert isinstance(clip, Transformer)
    whole = CLIPModel.from_pretrained(tmp_path).eval()
    texts = ["a cat", "a dog"]
    with torch.no_grad():
        out = whole(
            **clip._processor(images=PICTURES, return_tensors="pt"),
            **clip._tokenizer(texts, padding=True, return_tensors="pt"),
        )
        cosines = out.logits_per_image / whole.logit_scale.exp()
    assert np.allclose(clip.fit(PICTURES, texts), cosines.numpy(), atol=1e-5)


def test_what_cannot_be_had_says_why(tmp_path: Path) -> None:
    with pytest.raises(NetworkError) as network:
        encoders.load("nobody/no-such-encoder", CPU)
    assert network.value.code == "NW001" and network.value.exit_status == 7
    (tmp_path / "config.json").write_text('{"model_type": "nothing-known"}', encoding="utf-8")
    with pytest.raises(ModelError) as unknown:
        encoders.load(str(tmp_path), CPU)
    assert unknown.value.code == "EV001" and unknown.value.exit_status == 4


def test_what_a_file_lacks_is_not_made_up(tmp_path: Path) -> None:
    """Transformers fills it with random numbers: without a pooler the class token is taken, anything else is refused."""
    import transformers as tf
    from safetensors.torch import load_file, save_file

    model = tf.ViTModel(tf.ViTConfig(**SEEING))
    write(tmp_path, "dinov2")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if "pooler" not in name}, file, {"format": "pt"})
    told = [encoders.load(str(tmp_path), CPU).subjects(PICTURES) for _ in range(2)]
    assert np.array_equal(*told)
    with torch.no_grad():
        batch = encoders.load(str(tmp_path), CPU)._processor(images=PICTURES, return_tensors="pt")  # type: ignore[attr-defined]
        token = torch.nn.functional.normalize(model.eval()(**batch).last_hidden_state[:, 0], dim=1)
    assert np.allclose(told[0], token.numpy(), atol=1e-5)
    save_file({name: value for name, value in tensors.items() if "layernorm" not in name}, file, {"format": "pt"})
    file_bytes = file.read_bytes()
    for broken in (file_bytes, file_bytes[: len(file_bytes) // 2]):
        file.write_bytes(broken)
        with pytest.raises(ModelError) as refused:
            encoders.load(str(tmp_path), CPU)
        assert refused.value.code == "EV001"


def test_weights_that_could_run_code_are_not_opened(tmp_path: Path) -> None:
    write(tmp_path, "dinov2")
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as refused:
        encoders.load(str(tmp_path), CPU)
    assert refused.value.code == "EV001"


@pytest.mark.parametrize(
    ("text", "background", "things"),
    [
        ("a tsuipi character in the snow", "snow", ()),
        ("a tsuipi character and a cat on the beach", "beach", ("cat",)),
        ("a frog on a purple background", "purple", ("frog",)),
        ("a cat on a light blue background", "light blue", ("cat",)),
        ("a palm tree under the sea", "sea", ("palm tree",)),
        ("a catalogue of seas", "", ()),
    ],
)
def test_the_yardstick_finds_the_words_of_its_world(text: str, background: str, things: tuple[str, ...]) -> None:
    assert named(text) == (background, things)


def test_the_yardstick_tells_a_right_picture_from_a_wrong_one() -> None:
    eye = encoders.load("embedded", CPU)
    true = {one.background: Image.fromarray(one.pixels) for one in mascot.held_out(30, trained_backgrounds=True)}
    beach, room = true["beach"], true["room"]
    fit = eye.fit([beach, room], ["a tsuipi on the beach", "a tsuipi in a room", "a tsuipi"])
    assert fit[0, 0] > fit[0, 1] and fit[1, 1] > fit[1, 0] and np.isnan(fit[:, 2]).all()
    assert np.allclose(np.linalg.norm(eye.scenes([beach, room]), axis=1), 1)


@pytest.mark.parametrize("name", ["./nope", "nope", "/no/such/folder"])
def test_a_folder_that_is_not_there_is_not_asked_of_the_hub(name: str) -> None:
    with pytest.raises(ModelError, match=r"EV001(?s:.*)no such folder"):
        encoders.load(name, CPU)
