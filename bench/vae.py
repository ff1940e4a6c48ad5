"""Does `vae compare` rank VAEs whose faults are known because they were put in? On drawings, and on photographs by a flag.

    python bench/vae.py --out DIR [--photos FOLDER] [--pictures 18] [--size 96]

From the embedded base's own VAE these are made, as files, and then compared as a user would:
  good      itself in half precision: no difference may be found
  blurred   the last layer smoothed
  washed    the last layer mixed with grey
  scaled    latents 1.4 times as large, as SDXL's scale by SD1's: its own round trip is perfect
  foreign   latent channels turned among themselves: its own round trip is perfect, too
  loud      one layer a million times louder, which the norm after it undoes: only half precision breaks
Then the base is baked with the blurred one inside, and the good one must be recommended for it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import tsuika
from tsuika import families
from tsuika.core.plain import jsonable
from tsuika.embedded.things import KNOWN, NEW
from tsuika.embedded.world import World, draw

EXPECTED = {
    "good": set(),
    "blurred": set(),
    "washed": {"VA006"},
    "scaled": {"VA004", "VA010"},
    "foreign": {"VA003", "VA010"},
    "loud": {"VA001"},
}


def vaes(folder: Path) -> dict[str, Path]:
    """The files."""
    space = families.peek("embedded", embedded_path=tsuika.EMBEDDED)
    own = space.load_vae("builtin", torch.device("cpu")).state_dict()
    last = own["decoder.conv_out.weight"]
    smooth = 0.3 * last + 0.7 * last.mean((2, 3), keepdim=True)
    mix = 0.75 * torch.eye(3) + 0.05
    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0))).Q
    made: dict[str, dict[str, Tensor]] = {
        "good": {},
        "blurred": {"decoder.conv_out.weight": smooth},
        "washed": {
            "decoder.conv_out.weight": torch.einsum("ij,jchw->ichw", mix, last),
            "decoder.conv_out.bias": mix @ own["decoder.conv_out.bias"] + 0.03,
        },
        "scaled": _turned(own, 1.4 * torch.eye(4)),
        "foreign": _turned(own, turn),
        "loud": {
            name: own[name] * 1e6
            for name in ("decoder.mid_block.resnets.0.conv1.weight", "decoder.mid_block.resnets.0.conv1.bias")
        },
    }
    paths = {}
    for name, changed in made.items():
        paths[name] = folder / f"{name}.safetensors"
        dtype = torch.float32 if name == "loud" else torch.float16
        save_file({key: value.to(dtype).contiguous() for key, value in (own | changed).items()}, paths[name])
    return paths


def _turned(own: Mapping[str, Tensor], matrix: Tensor) -> dict[str, Tensor]:
    """The same VAE with latents multiplied by a matrix, and its inverse before the decoder."""
    weight, bias = own["quant_conv.weight"].clone(), own["quant_conv.bias"].clone()
    weight[:4], bias[:4] = torch.einsum("ij,jchw->ichw", matrix, weight[:4]), matrix @ bias[:4]
    back = torch.einsum("ojhw,ji->oihw", own["post_quant_conv.weight"], torch.linalg.inv(matrix))
    return {"quant_conv.weight": weight, "quant_conv.bias": bias, "post_quant_conv.weight": back}


def drawings(folder: Path, count: int, size_px: int) -> Path:
    """Renders of the embedded world."""
    folder.mkdir(exist_ok=True)
    rng, world = np.random.default_rng(77), World(things=(*KNOWN, *NEW))
    for number in range(count):
        Image.fromarray(draw(world.picture(rng), size_px)).save(folder / f"{number:02}.png")
    return folder


def main() -> None:
    """Make, compare, check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--pictures", type=int, default=18)
    parser.add_argument("--size", type=int, default=96)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    paths = vaes(out)
    sets = {"drawings": drawings(out / "drawings", arguments.pictures, arguments.size)}
    if arguments.photos:
        sets["photos"] = arguments.photos
    blurred_base = out / "blurred-base"
    shutil.rmtree(blurred_base, ignore_errors=True)
    _ = tsuika.bake_vae("embedded", str(paths["blurred"]), blurred_base).result
    for name, images in sets.items():
        for base, some in (("embedded", list(paths)), (str(blurred_base), ["good", "washed", "scaled"])):
            row = out / f"{name}-{Path(base).name}.json"
            if not row.exists():
                began = time.process_time()
                run = tsuika.compare_vae(
                    [str(paths[one]) for one in some],
                    images,
                    base=base,
                    size_px=arguments.size,
                    max_pictures=arguments.pictures,
                    out=row.with_suffix(".html"),
                    overwrite=True,
                )
                done = run.result.to_dict() | {"processor_s": time.process_time() - began}
                row.write_text(json.dumps(jsonable({key: value for key, value in done.items() if key != "notes"})))
            show(name, base, json.loads(row.read_text()))


def show(pictures: str, base: str, done: Mapping[str, Any]) -> None:
    """The table, and whether what was put in was found."""
    print(f"\n{pictures}, base {Path(base).name}, {done['pictures']} pictures, {done['processor_s']:.0f} processor s")
    for row in done["vaes"]:
        name, codes = Path(row["vae"]).stem, {one["code"] for one in row["findings"]}
        numbers = "  ".join(
            f"{key} {row['measures'][key]['mean']:.3f}" for key in ("psnr", "colour", "texture", "texture_error")
        )
        told = "" if name == "builtin" else "as expected" if codes == EXPECTED[name] else f"EXPECTED {EXPECTED[name]}"
        print(f"  {name:8} {numbers}  {sorted(codes)} {told}")
    print(
        "  advice:",
        {key: Path(value["vae"]).stem for key, value in done["advice"].items()},
        "pareto:",
        [Path(name).stem for name in done["pareto"]],
    )


if __name__ == "__main__":
    main()
