"""One program under measurement, whoever's it is: what torch's optimizers do is written down, alike for all.

    python bench/peers/hook.py RESULT.json SCRIPT.py|MODULE [its arguments]

After each step of any torch optimizer: time and processor time of this process since its start. Ten times a second: its memory
(Linux). At the end: how many weights were trained, peak memory, time and processor time of the whole program, and how much of the
processor time was spent in the stand-in for torchvision's transforms.
"""

from __future__ import annotations

import time

BEGAN = time.monotonic()

import atexit  # noqa: E402
import importlib.util  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import runpy  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402


def memory() -> tuple[int, int]:
    """Bytes in memory: all, and those that are of no file."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(lines["VmRSS"].split()[0]) << 10, int(lines["RssAnon"].split()[0]) << 10


def main() -> None:
    """Run the program with the hook."""
    out, program = Path(sys.argv[1]), sys.argv[2]
    steps: list[tuple[float, float]] = []
    curve: list[tuple[float, int, int]] = []
    trained: dict[int, int] = {}

    def stepped(optimizer: Any, args: Any, kwargs: Any) -> None:
        del args, kwargs
        steps.append((time.monotonic() - BEGAN, time.process_time()))
        for group in optimizer.param_groups:
            trained.update({id(one): one.numel() for one in group["params"] if one.grad is not None})

    def watch() -> None:
        while True:
            curve.append((time.monotonic() - BEGAN, *memory()))
            time.sleep(0.1)

    def finish() -> None:
        content = {
            "steps": steps,
            "memory": curve,
            "weights": sum(trained.values()),
            "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            "whole": (time.monotonic() - BEGAN, time.process_time()),
            "transforms": getattr(sys.modules.get("torchvision.transforms"), "SPENT", [0.0])[0],
        }
        out.write_text(json.dumps(content), encoding="utf-8")

    register_optimizer_step_post_hook(stepped)
    threading.Thread(target=watch, daemon=True).start()
    atexit.register(finish)
    sys.argv = sys.argv[2:]
    if program.endswith(".py"):
        sys.path[0] = str(Path(program).parent)
        stand_in()
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


def stand_in() -> None:
    """A torchvision for peers where none is installed. Libraries that would want more of it have looked before, and found none."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    importlib.import_module("diffusers.utils.import_utils")
    importlib.import_module("transformers.utils.import_utils").is_torchvision_available()
    source = importlib.util.spec_from_file_location("torchvision.transforms", Path(__file__).with_name("transforms.py"))
    assert source is not None and source.loader is not None
    transforms = importlib.util.module_from_spec(source)
    whole = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("torchvision", None, is_package=True))
    whole.transforms = transforms  # type: ignore[attr-defined]
    sys.modules |= {"torchvision": whole, "torchvision.transforms": transforms}
    source.loader.exec_module(transforms)


if __name__ == "__main__":
    main()
