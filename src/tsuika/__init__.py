"""Additional training (追加学習) for Stable Diffusion: from a folder of images to a file that works in your program.

    import tsuika

    run = tsuika.train("lora", images="photos", trigger="sks", class_word="dog", out="runs/dog")
    for event in run:
        print(event)
    print(run.result.artifacts)

Every command of the program is a function of the same name. A call returns a `Run`: iterate it for events, ask it for its
`result`, close it to stop (a training saves its state first). What is exported stands in `__init__.pyi`; it is imported when it
is first asked for, so that `import tsuika` is quick and loads no torch.
"""

import os

import lazy_loader

# Else MKL (torch on Intel processors) rounds by where in memory an operand lies: the same weights, other bits.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
