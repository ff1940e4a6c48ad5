"""What is sent and what is picked: names, zips, links out of the roots, forged handles."""

from __future__ import annotations

import io
import stat
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import Running, running
from safetensors.numpy import save_file

from tsuika.api.image_set import ImageSet
from tsuika.core.errors import ImageError
from tsuika.core.files import sha256
from tsuika.generation.png_info import GenerationInfo, short_hash, write_png
from tsuika.studio import uploads
from tsuika.studio.home import Database
from tsuika.studio.picker import Picker
from tsuika.studio.thumbnails import Thumbnails


def png(colour: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(stream, format="PNG")
    return stream.getvalue()


def packed(folder: Path, files: dict[str, bytes], link: str = "") -> Path:
    path = folder / "some.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if link:
            entry = zipfile.ZipInfo(link)
            entry.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(entry, "/etc/passwd")
    return path


@pytest.mark.parametrize(
    "name", ["a.png", "sub/a.png", "画像/猫 1.png", "a.b.c.png", "COM.png", "console.png", "a" * 100 + ".png"]
)
def test_a_name_that_every_system_takes(name: str) -> None:
    assert uploads.safe_name(name) == name


def test_a_name_is_taken_in_one_form() -> None:
    assert uploads.safe_name("が.png") == "が.png"


@pytest.mark.parametrize(
    "name",
    [
        *("..", "a/..", "./a", "a//b", "/a", "a\\b", "C:a", "c:/a", "//host/share", "a:b"),
        *("nul", "NUL.png", "com1.png", "lpt9.txt", "aux/a.png", "con.tar.png"),
        *("a\n.png", "a\x7f.png", "a?.png", "a*.png", 'a".png', "<a>.png", "a|b.png", " a.png", "a.png ", "a.", ".a"),
        *("a/.b/c.png", "a" * 300 + ".png", "/".join("abcdefgh")),
    ],
)
def test_a_name_that_leads_elsewhere_or_is_kept_for_a_device(name: str) -> None:
    assert uploads.safe_name(name) is None


def test_a_zip_gives_its_images_and_captions_and_nothing_else(tmp_path: Path) -> None:
    files = {
        "in/a.txt": b"a cat",
        "in/a.png": png(),
        "../../evil.png": png(),
        "/abs.png": png(),
        "C:\\evil.png": png(),
        "__MACOSX/in/._a.png": png(),
        "in/.hidden.png": png(),
        "in/page.html": b"<script>",
        "in/run.exe": b"MZ",
        "in/broken.png": b"\x89PNG\r\n\x1a\n",
        "nested.zip": b"PK",
    }
    (tmp_path / "scratch").mkdir()
    images = ImageSet(tmp_path / "project")
    taken = uploads.take(images, packed(tmp_path / "scratch", files, link="in/link.png"), "some.zip")
    assert taken == ["in/a.png"]
    assert [(one.name, one.caption) for one in images.images()] == [("in/a.png", "a cat")]
    there = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(there) == ["project/images/in/a.png", "project/images/in/a.txt", "scratch/some.zip"]


def test_a_zip_that_would_fill_the_disk_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path, {"a.png": b"\0" * 3_000_000})
    with pytest.raises(ImageError, match="too large"):
        uploads.take(ImageSet(tmp_path / "project"), path, "some.zip")
    assert not (tmp_path / "project").exists()


def test_a_zip_that_lies_about_its_size_is_stopped(tmp_path: Path) -> None:
    path = packed(tmp_path, {"a.png": png() + b"\0" * 50_000})
    content = bytearray(path.read_bytes())
    real = (len(png()) + 50_000).to_bytes(4, "little")
    # In the directory at the end, which is what is read first.
    place = content.rindex(real)
    content[place : place + 4] = (100).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ImageError):
        uploads.take(ImageSet(tmp_path / "project"), path, "some.zip")
    assert not [*(tmp_path / "project").rglob("*.png")]


def test_folders_are_those_below_the_roots(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "inside").mkdir(parents=True)
    (root / ".hidden").mkdir()
    outside.mkdir()
    (root / "link").symlink_to(outside)
    (root / "a.png").write_bytes(png())
    (root / "m.safetensors").write_bytes(b"x")
    picker = Picker((root,), b"secret", root)
    listing = picker.listing(root, "models")
    assert [one["name"] for one in listing["folders"]] == ["inside"]
    assert [one["name"] for one in listing["files"]] == ["m.safetensors"]
    assert (listing["images"], listing["parent"]) == (1, "")
    assert picker.path(picker.handle(root / "inside")) == root / "inside"
    # Handed out, but outside by now, or by a link, or never handed out.
    assert picker.path(picker.handle(root / "link")) is None
    assert picker.path(picker.handle(outside)) is None
    assert picker.path(picker.handle(root / "inside/../../outside")) is None
    assert picker.path(Picker((root,), b"another", root).handle(root / "inside")) is None
    assert picker.path("not a handle") is None
    assert picker.path("é") is None


def test_two_images_of_one_content_are_made_small_at_once(tmp_path: Path) -> None:
    Image.effect_noise((900, 900), 60).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes())
    small = Thumbnails(tmp_path / "small", Database(tmp_path / "db"))
    for side in (256, 512, 1600):
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda name, side=side: small.of(tmp_path / name, side), ("a.png", "b.png"))
        assert first == second and first.is_file()


def test_small_images_are_made_ahead_and_no_file_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(tmp_path / "home") as here:
        key = here.ask("POST", "/api/projects", {"name": "many"})[1]["id"]
        made = tmp_path / "home/thumbnails"

        def wait_for(count: int) -> None:
            end = time.monotonic() + 20
            while len([*made.rglob("*-256.webp")]) < count:
                assert time.monotonic() < end
                time.sleep(0.01)

        colours = ("red", "green", "blue")
        for colour in colours:
            assert here.ask("POST", f"/api/uploads/{key}", png(colour), x_file_name=f"{colour}.png")[0] == 200
        # Nobody has asked for any of them.
        wait_for(3)
        # Files that came in another way, one of them no image, are made when the list is read.
        folder = here.studio.home.project(key).folder / "images"  # type: ignore[union-attr]
        (folder / "black.png").write_bytes(png("black"))
        (folder / "broken.png").write_bytes(b"x")
        (folder / "white.png").write_bytes(png("white"))
        rows = {one["name"]: one for one in here.ask("GET", f"/api/projects/{key}/images")[1]["images"]}
        wait_for(5)
    # A studio that is started anew knows them all without reading one of the files.
    monkeypatch.setattr("tsuika.studio.thumbnails.sha256", lambda _path: pytest.fail("it was read"))
    with running(tmp_path / "home") as here:
        for name in ("red.png", "black.png"):
            assert here.ask("GET", f"/api/projects/{key}/images/{rows[name]['id']}?side=256")[0] == 200
        (folder / "red.png").rename(folder / "moved.png")
        now = {one["name"]: one for one in here.ask("GET", f"/api/projects/{key}/images")[1]["images"]}
        assert here.ask("GET", f"/api/projects/{key}/images/{now['moved.png']['id']}?side=256")[0] == 200
        assert here.ask("GET", f"/api/projects/{key}/images/{rows['red.png']['id']}?side=256")[0] == 404


def test_an_image_that_has_changed_is_at_another_address(tmp_path: Path) -> None:
    with running(tmp_path / "home") as here:
        key = here.ask("POST", "/api/projects", {"name": "x"})[1]["id"]
        assert here.ask("POST", f"/api/uploads/{key}", png(), x_file_name="a.png")[0] == 200
        images = here.studio.home.project(key).images  # type: ignore[union-attr]

        def version() -> str:
            return str(here.ask("GET", f"/api/projects/{key}/images")[1]["images"][0]["version"])

        found = [version()]
        assert version() == found[0]
        images.crop({"a.png": (0, 1, 0, 1)})
        found.append(version())
        for colour in ("white", "black"):
            (tmp_path / f"{colour}.png").write_bytes(png(colour))
            images.write_masks({"a.png": tmp_path / f"{colour}.png"})
            found.append(version())
        assert len({*found}) == 4


def test_a_dropped_image_says_how_it_was_made_and_is_not_kept(tmp_path: Path) -> None:
    info = GenerationInfo("a cat, <lora:x:0.8>", "dog", 20, "DPM++ 2M Karras", 6.5, 7, (512, 768), model="m")
    write_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), info)
    with running(tmp_path / "home") as here:
        status, told = here.ask("POST", "/api/dropped", (tmp_path / "a.png").read_bytes(), x_file_name="a.png")
        assert (status, told["image"]) == (
            200,
            {"prompt": info.prompt, "negative": "dog", "seed": 7, "steps": 20, "cfg": 6.5, "model": "m"}
            | {"size": "512x768", "sampler": "DPM++ 2M Karras", "vae": "builtin", "cards": [], "missing": ["x"]},
        )
        assert here.ask("POST", "/api/dropped", png(), x_file_name="b.png") == (200, {"image": {}})
        assert not list((tmp_path / "home/dropped").iterdir())


def test_a_dropped_image_brings_back_what_was_combined(tmp_path: Path) -> None:
    made, elsewhere = tmp_path / "home/results", tmp_path / "home/other"
    for folder in (made, elsewhere):
        folder.mkdir(parents=True)
    keys = {
        "cat": "lora_unet_a.lora_down.weight",
        "hat": "emb_params",
        "ink": "640.0.linear.weight",
        "clear": "decoder.conv_in.weight",
    }
    files = {name: made / f"{name}.safetensors" for name in keys}
    for number, (name, file) in enumerate(files.items()):
        save_file({keys[name]: np.full((2, 2), number, np.float32)}, file)
    (elsewhere / "clear.safetensors").write_bytes(b"another")
    hashes = {name: sha256(file) for name, file in files.items()}
    info = GenerationInfo(
        "a cat <lora:cat:0.8> <hypernet:ink:-0.5> <lora:away:1> <lora:two:1:0.5>",
        clip_skip=2,
        sampler="LMS",
        model="embedded",
        vae="clear.safetensors",
        vae_hash=hashes["clear"][:10],
        lora_hashes={"cat": short_hash(files["cat"], hashes["cat"], tensors_only=True) or "", "away": "a" * 12},
        ti_hashes={"hat": hashes["hat"][:10]},
    )

    def told(here: Running, about: GenerationInfo, own: Any = None) -> dict[str, Any]:
        write_png(tmp_path / "a.png", Image.new("RGB", (8, 8)), about, own)
        found: dict[str, Any] = here.ask(
            "POST", "/api/dropped", (tmp_path / "a.png").read_bytes(), x_file_name="a.png"
        )[1]["image"]
        return found

    with running(tmp_path / "home") as here:
        # A VAE of this name that was picked before is another one.
        place = here.studio.picker.handle(elsewhere / "clear.safetensors")
        assert here.ask("POST", "/api/artifacts", {"place": place, "kind": "vaes"})[1]["kind"] == "vae"
        found = told(here, info, {"artifacts": [{"file": "hat.safetensors", "strength": 0.25}, "junk", {"file": 3}]})
        cards = [(one["name"], one["kind"], one["strength"]) for one in found["cards"]]
        assert cards == [("cat", "lora", 0.8), ("ink", "hypernetwork", -0.5), ("hat", "textual-inversion", 0.25)]
        assert (found["vae"], found["base"], found["clip_skip"]) == (str(files["clear"]), "embedded", 2)
        # What is not known here, or has two strengths, stays in the prompt.
        assert found["prompt"] == "a cat <lora:away:1> <lora:two:1:0.5>"
        assert found["missing"] == ["LMS", "away"]
        # A file of the same name that is another one is not taken for it.
        save_file({keys["cat"]: np.ones((3, 3), np.float32)}, files["cat"])
        again = told(here, replace(info, vae="builtin:texture", vae_hash=None))
        assert ("cat" in again["missing"], "<lora:cat:0.8>" in again["prompt"]) == (True, True)
        assert again["vae"] == "builtin:texture"
        unknown = told(here, replace(info, model="v1-5", vae="builtin:texture", vae_hash=None))
        assert ("base" in unknown, "vae" in unknown, "builtin:texture" in unknown["missing"]) == (False, False, True)
        rows = here.ask("GET", "/api/artifacts")[1]
        assert {one["name"] for one in rows["artifacts"]} == {"cat", "hat", "ink"}
        assert [one["name"] for one in rows["vaes"]] == ["clear", "clear"]


def test_dropped_weights_are_kept_under_a_free_name_and_inspected(tmp_path: Path) -> None:
    with running(tmp_path / "home", program=["echo"]) as here:
        for name in ("a.safetensors", "a-2.safetensors"):
            status, told = here.ask("POST", "/api/dropped", b"no weights", x_file_name="a.safetensors")
            assert (status, Path(told["artifact"]["file"]).name) == (200, name)
            assert "inspect" in here.ask("GET", f"/api/jobs/{told['job']}")[1]["job"]["command"]
        names = [one["name"] for one in here.ask("GET", "/api/artifacts")[1]["artifacts"]]
        assert names == ["a-2", "a"]


@pytest.mark.parametrize(
    ("name", "status"), [("a.exe", 415), ("a", 415), ("..%2Fa.pt", 200), ("nul.pt", 422), ("", 422), ("a.png", 422)]
)
def test_what_is_dropped_and_cannot_be(name: str, status: int, tmp_path: Path) -> None:
    with running(tmp_path / "home", program=["echo"]) as here:
        assert here.ask("POST", "/api/dropped", b"no image", x_file_name=name)[0] == status
        kept = {path.name for path in (tmp_path / "home/dropped").glob("*")}
        assert kept == ({"a.pt"} if status == 200 else set())


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_half_a_character_is_refused(name: str, tmp_path: Path) -> None:
    with running(tmp_path / "home") as studio:
        assert studio.ask("POST", "/api/projects", {"name": name})[0] == 400
        assert studio.ask("POST", "/api/projects", {"name": "猫"})[0] == 200
        project = studio.ask("GET", "/api/home")[1]["projects"][0]["id"]
        assert (
            studio.ask("POST", f"/api/projects/{project}/recipe", {"settings": {"train.steps": float("inf")}})[0] == 400
        )
