"""How well `tsuika check` finds faults that were planted, and what it says of clean pictures.

    python bench/check.py --photos FOLDER --out DIR [--half choose|report] [--first SEED]
                           [--faults NAME ...] [--kinds NAME ...] [--read] [--speed N] [--variety]

FOLDER holds one folder of photographs per subject. Drawings are the embedded world's. Each set is a folder of 6 to 24
pictures, some with one planted fault each; the rest is clean. A fault counts as found if the check names the picture for
it; a finding on any other picture is a false alarm. Sets of the half `choose` (even seeds; half of the subjects) are for
choosing thresholds, those of `report` (odd seeds; the other subjects) for reporting. One JSON file a set; it goes on
where it stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from tsuika.api.run import Run
from tsuika.core.events import Progress, drained
from tsuika.core.files import write_text
from tsuika.core.sections import Data
from tsuika.data import check_variety
from tsuika.data.check import check
from tsuika.data.dedupe import Thumbnail
from tsuika.embedded import gadget, mascot, sketch, world

R = Image.Resampling
Change = Callable[[Image.Image, random.Random], Image.Image]

# What finding answers for a planted fault. Pictures enlarged very much are blurred, too: either name is right.
EXPECTED: Mapping[str, tuple[str, ...]] = {
    "blur 1.5": ("blurred", "upscaled"),
    "blur 2": ("blurred", "upscaled"),
    "blur 4": ("blurred", "upscaled"),
    "motion 9": ("blurred", "upscaled"),
    "enlarged x1.5": ("upscaled", "blurred"),
    "enlarged x2": ("upscaled", "blurred"),
    "enlarged x3": ("upscaled", "blurred"),
    "pixels repeated": ("upscaled",),
    "2 stops over": ("overexposed",),
    "3 stops over": ("overexposed",),
    "3 stops under": ("underexposed",),
    "4 stops under": ("underexposed",),
    "bars": ("bars",),
    "copy": ("near-duplicate",),
    "mirrored": ("near-duplicate",),
    "crop 60-90 %": ("near-duplicate",),
    "resized": ("near-duplicate",),
    "JPEG 40": ("near-duplicate",),
    "crop, mirrored, JPEG": ("near-duplicate",),
    "cut off": ("damaged",),
    "tail of zeros": ("empty-tail", "damaged"),
    "no bytes": ("empty",),
    "no picture": ("not-a-picture",),
    "tiny": ("too-small",),
    "very wide": ("odd-aspect",),
    "empty caption": ("caption-empty",),
    "same caption": ("caption-identical",),
    "cp932 caption": ("caption-encoding",),
    "long caption": ("caption-long",),
}
# Published with black bars around them: planted by others, told by eye.
BARRED = ("cat2 number 0", "cat2 number 1", "cat2 number 4", "dog8 number 2")
TONES = ("2 stops over", "3 stops over", "3 stops under", "4 stops under")  # photographs only: drawings are as drawn
COPIES = tuple(name for name, codes in EXPECTED.items() if codes == ("near-duplicate",))
JUDGED = tuple(dict.fromkeys(code for codes in EXPECTED.values() for code in codes))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def exposed(image: Image.Image, stops: float) -> Image.Image:
    """Light times 2 ** stops, clipped, in sRGB."""
    value = np.asarray(image, np.float32) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4) * 2.0**stops
    linear = np.clip(linear, 0, 1)
    coded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return Image.fromarray((coded * 255 + 0.5).astype(np.uint8))


def blurred(image: Image.Image, sigma: float) -> Image.Image:
    """Sigma in px of a picture of 512 x 512; of smaller pictures, their own px."""
    scale = max(1.0, (image.width * image.height) ** 0.5 / 512)
    return image.filter(ImageFilter.GaussianBlur(sigma * scale))


def moved(image: Image.Image, length: int) -> Image.Image:
    """Motion blur along a diagonal."""
    pixels = np.asarray(image, np.float32)
    scale = max(1.0, (image.width * image.height) ** 0.5 / 512)
    count = round(length * scale)
    total = sum(np.roll(np.roll(pixels, i, 0), i, 1) for i in range(count))
    return Image.fromarray((total / count).astype(np.uint8))


def enlarged(image: Image.Image, factor: float, draw: random.Random) -> Image.Image:
    small = image.resize((round(image.width / factor), round(image.height / factor)), R.LANCZOS)
    return small.resize(image.size, draw.choice([R.BILINEAR, R.BICUBIC, R.LANCZOS]))


def cropped(image: Image.Image, area: float, draw: random.Random) -> Image.Image:
    aspect = draw.uniform(max(area, 0.8), min(1 / area, 1.25)) ** 0.5
    w, h = min(1.0, area**0.5 * aspect), min(1.0, area**0.5 / aspect)
    x, y = draw.uniform(0, 1 - w), draw.uniform(0, 1 - h)
    width, height = image.size
    return image.crop((round(x * width), round(y * height), round((x + w) * width), round((y + h) * height)))


def barred(image: Image.Image, draw: random.Random) -> Image.Image:
    colour = draw.choice([(0, 0, 0), (255, 255, 255), (16, 16, 16)])
    thick = round(draw.uniform(0.06, 0.15) * image.width)
    whole = Image.new("RGB", (image.width, image.height), colour)
    across = draw.random() < 0.5
    inner = (image.width - 2 * thick, image.height) if across else (image.width, image.height - 2 * thick)
    whole.paste(image.resize(inner, R.LANCZOS), (thick, 0) if across else (0, thick))
    return whole


def mirrored(image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


CHANGES: Mapping[str, Change] = {
    "blur 1.5": lambda i, _: blurred(i, 1.5),
    "blur 2": lambda i, _: blurred(i, 2),
    "blur 4": lambda i, _: blurred(i, 4),
    "motion 9": lambda i, _: moved(i, 9),
    "enlarged x1.5": lambda i, d: enlarged(i, 1.5, d),
    "enlarged x2": lambda i, d: enlarged(i, 2, d),
    "enlarged x3": lambda i, d: enlarged(i, 3, d),
    "pixels repeated": lambda i, d: i.resize((i.width // 3, i.height // 3), R.LANCZOS).resize(
        (i.width // 3 * 3, i.height // 3 * 3), R.NEAREST
    ),
    "2 stops over": lambda i, _: exposed(i, 2),
    "3 stops over": lambda i, _: exposed(i, 3),
    "3 stops under": lambda i, _: exposed(i, -3),
    "4 stops under": lambda i, _: exposed(i, -4),
    "bars": barred,
    "very wide": lambda i, _: i.crop((0, i.height * 2 // 5, i.width, i.height * 2 // 5 + i.height // 4)),
    "copy": lambda i, _: i,
    "mirrored": lambda i, _: mirrored(i),
    "crop 60-90 %": lambda i, d: cropped(i, d.uniform(0.6, 0.9), d),
    "resized": lambda i, d: i.resize((round(i.width * 0.6), round(i.height * d.uniform(0.55, 0.65))), R.LANCZOS),
    "JPEG 40": lambda i, _: jpeg(i, 40),
    "crop, mirrored, JPEG": lambda i, d: jpeg(mirrored(cropped(i, d.uniform(0.65, 0.9), d)), 60),
}


def drawings(kind: str, count: int, seed: int) -> list[tuple[str, Image.Image]]:
    """Pictures and what is in them."""
    if kind == "world":
        rng, made = np.random.default_rng(seed), world.World()
        return [(f"scene {i}", Image.fromarray(world.draw(made.picture(rng), 128))) for i in range(count)]
    module = {"mascot": mascot, "gadget": gadget, "sketch": sketch}[kind]
    return [(f"{one.caption} {twin(one)}", Image.fromarray(one.pixels)) for one in module.pictures(count, seed)]


def twin(drawn: mascot.Illustration) -> str:
    """Names pictures that may be one picture but for a crop: the same figure before the same background."""
    return "" if drawn.companion else f"[{drawn.background}]"


def photographs(folder: Path, half: int) -> dict[str, list[Image.Image]]:
    """By subject; every other subject belongs to a half."""
    subjects = sorted(path for path in folder.iterdir() if path.is_dir())[half::2]
    return {path.name: [Image.open(one).convert("RGB") for one in sorted(path.glob("*.jpg"))] for path in subjects}


def pictures(kind: str, seed: int, photos: Path | None, draw: random.Random) -> list[tuple[str, Image.Image]]:
    if kind == "one subject":
        sets = photographs(photos, seed % 2) if photos else {}
        name = sorted(sets)[seed // 2 % len(sets)]
        return [(f"{name} number {i}", image) for i, image in enumerate(sets[name])]
    if kind == "many subjects":
        sets = photographs(photos, seed % 2) if photos else {}
        every = [(f"{name} number {i}", image) for name, some in sets.items() for i, image in enumerate(some)]
        return draw.sample(every, min(12, len(every)))
    return drawings(kind, draw.choice([8, 12, 16]), seed)


def save(image: Image.Image, path: Path, draw: random.Random) -> None:
    if path.suffix == ".jpg":
        image.save(path, quality=draw.choice([80, 90, 95]))
    else:
        image.save(path)


def plant(
    folder: Path, kind: str, seed: int, photos: Path | None, faults: Sequence[str]
) -> tuple[dict[str, str], set[str]]:
    """Write a set. Gives name -> its fault (copies: the copy's own name), and the clean names that copies were made of."""
    draw = random.Random(f"{kind} {seed}")
    made = pictures(kind, seed, photos, draw)
    is_photo = "subject" in kind
    names = [name for name in faults if is_photo or name not in TONES]
    count = max(1, len(made) // 3)  # so that the set's median stays that of clean pictures
    turn = draw.sample(names, len(names)) if count < 3 else names[seed // 2 * count % len(names) :] + names * count
    chosen = turn[:count]
    rows = draw.sample(range(len(made)), count)
    planted, sources = {}, set()
    twins: dict[str, str] = {}
    for row, (words, image) in enumerate(made):
        fault = chosen[rows.index(row)] if row in rows else ""
        name = f"{row:02}" + (".jpg" if is_photo or draw.random() < 0.3 else ".png")
        path, text = folder / name, f"{words}, {row}"
        if fault in COPIES:
            save(image, path, draw)
            path.with_suffix(".txt").write_text(text, encoding="utf-8")
            sources.add(name)
            name = f"{row:02} copy{path.suffix}"
            path = folder / name
            text += " again"
        if fault:
            planted[name] = fault
        if words in BARRED:
            sources.add(f"bars of {row:02}")
        twins[f"{row:02}"] = words[words.find("[") :] if "[" in words else ""
        changed = CHANGES[fault](image, draw) if fault in CHANGES else image
        if fault == "tiny":
            changed = image.resize((24, 24), R.LANCZOS)
        if fault in ("cut off", "tail of zeros"):
            stream = io.BytesIO()
            image.save(stream, "JPEG", quality=90)
            content, cut = stream.getvalue(), draw.uniform(0.4, 0.9)
            kept = content[: int(len(content) * cut)]
            path.write_bytes(kept if fault == "cut off" else kept + bytes(len(content) - len(kept)))
        elif fault in ("no bytes", "no picture"):
            path.write_bytes(b"" if fault == "no bytes" else b"<html>Not found</html>")
        else:
            save(changed, path, draw)
        said = {"empty caption": " \n", "long caption": text + ", with very many small details" * 20}.get(fault, text)
        content = said.encode("cp932") + "、ついか".encode("cp932") if fault == "cp932 caption" else said.encode()
        path.with_suffix(".txt").write_bytes(content)
        if fault == "same caption":
            other = (row + 1) % len(made)
            planted[name] = fault
            (folder / f"same {other}").write_text(name)  # carried out below, when every caption is there
    for note in folder.glob("same *"):
        name = note.read_text()
        note.unlink()
        clean = [p for p in sorted(folder.glob("*.txt")) if p.stem not in {Path(one).stem for one in planted}]
        (folder / name).with_suffix(".txt").write_bytes(clean[0].read_bytes())
        sources.add(f"caption of {clean[0].stem}")
    counts = Counter(filter(None, twins.values()))
    sources |= {f"twin {row}" for row, key in twins.items() if counts[key] > 1}
    return planted, sources


def pieces(text: str) -> list[str]:
    """Stands in for a tokenizer: the bench measures the check, not CLIP's vocabulary."""
    return text.replace(",", " , ").split()


def cell(kind: str, seed: int, photos: Path | None, faults: Sequence[str]) -> dict[str, object]:
    folder = Path(tempfile.mkdtemp())
    planted, sources = plant(folder, kind, seed, photos, faults)
    began = time.process_time()
    report = drained(check(folder, Data(), size_px=64, step_px=8, tokenize=pieces, tokenizer="words", workers=1))
    seconds = time.process_time() - began
    said = {
        one.name: [f.code for f in report.findings if one.name in f.pictures and f.code in JUDGED]
        for one in report.pictures
    }
    groups = [list(group) for group in report.duplicates]
    shutil.rmtree(folder)
    return {
        "kind": kind,
        "seed": seed,
        "planted": planted,
        "sources": sorted(sources),
        "said": said,
        "groups": groups,
        "seconds": seconds,
        "sharpness": {p.name: [p.sharpness, p.detail_px, p.bright, p.drawn] for p in report.pictures},
    }


def read(out: Path, half: int) -> None:
    """Recall by planted fault, precision by finding, in one half."""
    cells = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    cells = [one for one in cells if one["seed"] % 2 == half]
    for group, wanted in (("photographs", True), ("drawings", False)):
        some = [one for one in cells if ("subject" in one["kind"]) == wanted]
        found, total, right, wrong, examples, twins = Counter(), Counter(), Counter(), Counter(), {}, 0
        for one in some:
            for name, fault in one["planted"].items():
                total[fault] += 1
                codes = [code for code in one["said"].get(name, []) if code in EXPECTED[fault]]
                if fault in COPIES:  # whichever of the two is the better one stays
                    codes = [1 for row in one["groups"] if name in row and f"{name[:2]}{name[-4:]}" in row]
                found[fault] += bool(codes)
            for name, codes in one["said"].items():
                fault = one["planted"].get(name, "")
                for code in codes:
                    good = code in EXPECTED.get(fault, ())
                    if code == "near-duplicate":
                        good = any(name in rows and len({row[:2] for row in rows}) == 1 for rows in one["groups"])
                        if not good and f"twin {name[:2]}" in one["sources"]:
                            twins += 1  # neither right nor wrong
                            continue
                    good |= code == "bars" and f"bars of {name[:2]}" in one["sources"]
                    if code == "caption-identical":
                        good |= f"caption of {Path(name).stem}" in one["sources"]
                    right[code] += good
                    wrong[code] += not good
                    if not good:
                        examples.setdefault(code, []).append(f"{one['kind']} {one['seed']} {name} {fault}".strip())
        count = sum(len(one["said"]) for one in some)
        clean = sum(name not in one["planted"] for one in some for name in one["said"])
        print(f"\n**{group}**: {len(some)} sets, {count} pictures, {clean} of them clean\n")
        print("| planted | found | of | recall |\n|---|---|---|---|")
        for fault in EXPECTED:
            if total[fault]:
                print(f"| {fault} | {found[fault]} | {total[fault]} | {found[fault] / total[fault]:.2f} |")
        print("\n| finding | right | wrong | precision |\n|---|---|---|---|")
        for code in JUDGED:
            if right[code] + wrong[code]:
                print(f"| {code} | {right[code]} | {wrong[code]} | {right[code] / (right[code] + wrong[code]):.2f} |")
        print(f"\nNear-duplicates among pictures of one figure before one background, not counted: {twins}")
        for code, rows in examples.items():
            print(f"  false {code}: {'; '.join(rows[:8])}")


def variety(photos: Path) -> None:
    """What the spreads say of sets of known variety, and whether alike backgrounds are the same ones."""
    draw, rng, made = random.Random(0), np.random.default_rng(0), world.World()
    subjects = {name: some for half in (0, 1) for name, some in photographs(photos, half).items()}
    every = [image for some in subjects.values() for image in some]
    things = [made.picture(rng).things for _ in range(20)]
    drawn = {
        "scenes, all backgrounds": [world.Picture(world.BACKGROUNDS[i], one, i) for i, one in enumerate(things)],
        "scenes, one background": [world.Picture("beach", one, i) for i, one in enumerate(things)],
    }
    sets = {
        "one photograph, 8 crops": [cropped(every[0], 0.85, draw) for _ in range(8)],
        **subjects,
        "all photographs": every,
        **{name: [Image.fromarray(world.draw(one, 128)) for one in some] for name, some in drawn.items()},
        **{name: [image for _, image in drawings(name, 20, 0)] for name in ("mascot", "sketch")},
    }
    print("| set | pictures | palette | composition | light | backgrounds | largest |\n|---|---|---|---|---|---|---|")
    for name, images in sets.items():
        found = check_variety.features([Thumbnail(image) for image in images])
        groups = check_variety.backgrounds(found.frame_ND)
        spreads = " | ".join(f"{value:.2f}" for value in check_variety.spreads(found))
        print(f"| {name} | {len(images)} | {spreads} | {len(groups)} | {len(groups[0]) / len(images):.2f} |")
    for name, pool in (("plain colours", tuple(world.PLAIN)), ("scenes", tuple(world.SCENES))):
        labels = [pool[i % len(pool)] for i in range(60)]
        looks = [
            Thumbnail(Image.fromarray(world.draw(world.Picture(b, made.picture(rng).things, i), 128)))
            for i, b in enumerate(labels)
        ]
        frames = check_variety.features(looks).frame_ND
        right = wrong = missed = 0
        for i in range(60):
            alike = check_variety.apart(frames[i], frames) < check_variety.OTHER_BACKGROUND
            same = np.array([label == labels[i] for label in labels])
            others = np.arange(60) > i
            right += int((alike & same & others).sum())
            wrong += int((alike & ~same & others).sum())
            missed += int((~alike & same & others).sum())
        print(f"pairs of pictures on {name}: same background found {right}, wrongly {wrong}, missed {missed}")


def speed(photos: Path, folder: Path, count: int) -> None:
    """Time for `count` photographs: crops of the given ones, many alike, at 768 px and quality 90; they are kept."""
    draw = random.Random(0)
    sources = [image for half in (0, 1) for some in photographs(photos, half).values() for image in some]
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(len(list(folder.glob("*.jpg"))), count):
        image = cropped(sources[i % len(sources)], draw.uniform(0.15, 0.5), draw).resize((768, 768), R.LANCZOS)
        image.save(folder / f"{i:04}.jpg", quality=90)
    began, processor = time.monotonic(), time.process_time()
    times: dict[str, float] = {}
    run = Run("check", check(folder, Data(), size_px=512))
    for event in run:
        if isinstance(event, Progress):
            times[event.phase] = time.process_time() - processor
    report = run.result
    print(
        f"{count} pictures: {time.monotonic() - began:.0f} s, {time.process_time() - processor:.0f} processor s; until {times}"
    )
    print(f"{len(report.duplicates)} groups of near-duplicates")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=24, help="of each kind of set")
    parser.add_argument("--first", type=int, default=0, help="seed")
    parser.add_argument("--faults", nargs="+", default=list(EXPECTED), help="only these")
    parser.add_argument("--kinds", nargs="+", help="of sets, only these")
    parser.add_argument("--half", choices=["choose", "report"], help="only this half")
    parser.add_argument("--read", action="store_true")
    parser.add_argument("--speed", type=int, default=0)
    parser.add_argument("--variety", action="store_true")
    options = parser.parse_args()
    halves = {"choose": 0, "report": 1}
    if options.variety:
        variety(options.photos)
    elif options.speed:
        speed(options.photos, options.out / f"speed-{options.speed}", options.speed)
    elif options.read:
        read(options.out, halves[options.half or "report"])
    else:
        kinds = [*(["one subject", "many subjects"] if options.photos else []), "mascot", "gadget", "sketch", "world"]
        for seed in range(options.first, options.first + options.seeds):
            for kind in options.kinds or kinds:
                path = options.out / f"{kind.replace(' ', '-')}-{seed:02}.json"
                if path.exists() or (options.half and seed % 2 != halves[options.half]):
                    continue
                write_text(path, json.dumps(cell(kind, seed, options.photos, options.faults)))


if __name__ == "__main__":
    main()
