"""The recipe's sections that are the same for every method: base model, images, training, previews, output.

Each field carries its help (text, unit, everyday or expert). Imports no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tsuika.core.section import Help, Section, expert
from tsuika.core.texts import _


class Base(Section):
    """The model that is trained on."""

    model: Annotated[
        str,
        Help(_("Base model: `embedded`, a diffusers folder, a .safetensors or .ckpt file, or a Hugging Face model id")),
    ] = "embedded"
    tokenizer: Annotated[
        str, expert(_("Folder with the tokenizer files, for a single-file base model without network"))
    ] = ""
    vae: Annotated[str, Help(_("VAE: `builtin`, `builtin:NAME`, a file, a folder or a Hugging Face model id"))] = (
        "builtin"
    )
    artifacts: Annotated[
        tuple[str, ...],
        expert(
            _(
                "Finished results applied to the base model before training, as FILE or FILE:STRENGTH; they stay "
                "as they are"
            )
        ),
    ] = ()


class Data(Section):
    """The images and how they are prepared."""

    images: Annotated[str, Help(_("Folder of training images, searched recursively; never changed"))] = ""
    trigger: Annotated[str, Help(_("Trigger word: the new word that calls up what was learned"))] = ""
    class_word: Annotated[str, Help(_("Class word, what kind of thing it is: `dog`, `character`, `style`"))] = ""
    template: Annotated[
        Literal["none", "object", "style"],
        expert(
            _(
                "Captions of images without a caption file: the trigger word alone, or varied sentences for an "
                "object or a style"
            )
        ),
    ] = "none"
    reg_images: Annotated[
        str, Help(_("Folder of regularization images (the class without the subject), for prior preservation"))
    ] = ""
    reg_generate: Annotated[
        int,
        Help(
            _(
                "Number of regularization images to generate with the base model where no folder is given; 0 = "
                "no prior preservation"
            )
        ),
        Field(ge=0, le=10_000),
    ] = 0
    reg_weight: Annotated[float, expert(_("Weight of regularization images in the loss")), Field(ge=0, le=10)] = 1.0
    size_px: Annotated[
        int,
        Help(_("Training size: side of a square with the same area; 0 = the base model's own"), "px"),
        Field(ge=0, le=4096),
    ] = 0
    min_size_px: Annotated[
        int, expert(_("Smallest image that is used; 0 = half the training size"), "px"), Field(ge=0)
    ] = 0
    buckets: Annotated[
        bool, expert(_("Buckets: train on each image near its own aspect ratio instead of cropping it to a square"))
    ] = True
    repeats: Annotated[
        int, expert(_("Repeats of each image in an epoch (times the number of a kohya folder)")), Field(ge=1, le=10_000)
    ] = 1
    caption_dropout: Annotated[
        float,
        expert(_("Caption dropout: share of steps with an empty caption, which keeps guidance (CFG) working")),
        Field(ge=0, le=1),
    ] = 0.05
    shuffle_tags: Annotated[bool, expert(_("Shuffle comma-separated tags"))] = False
    keep_tokens: Annotated[int, expert(_("Number of tags at the front that are never shuffled")), Field(ge=0)] = 1
    flip: Annotated[
        bool, Help(_("Mirror half of the augmented images; leave it off for text and one-sided things"))
    ] = False
    crop: Annotated[
        float, expert(_("Random crop: smallest share of the side that is kept; 1 = no crop")), Field(gt=0.3, le=1)
    ] = 1.0
    rotate_deg: Annotated[float, expert(_("Random rotation, up to this angle either way"), "°"), Field(ge=0, le=45)] = (
        0.0
    )
    colour: Annotated[
        float, expert(_("Random brightness, contrast and saturation, up to this share")), Field(ge=0, le=0.5)
    ] = 0.0
    variants: Annotated[
        int, expert(_("Augmented variants that are encoded and cached for each image")), Field(ge=1, le=64)
    ] = 8
    cache: Annotated[bool, expert(_("Keep encoded latents on disk for later training runs"))] = True


class Train(Section):
    """The training loop."""

    steps: Annotated[int, Help(_("Training steps (updates by the optimizer)")), Field(ge=1, le=1_000_000)] = 800
    batch_size: Annotated[
        int, Help(_("Batch size: images per forward pass, over all processes")), Field(ge=1, le=4096)
    ] = 4
    accumulate: Annotated[
        int,
        expert(_("Gradient accumulation, batches per step: a step sees batch_size x accumulate images")),
        Field(ge=1, le=256),
    ] = 1
    learning_rate: Annotated[float, Help(_("Learning rate: how much one step changes")), Field(gt=0, le=10)] = 1e-4
    optimizer: Annotated[
        Literal["adamw", "adamw8bit", "adafactor", "prodigy", "schedule-free", "riemannian"],
        expert(_("Optimizer; `riemannian` turns vectors without changing their length, for new words only")),
    ] = "adamw"
    schedule: Annotated[
        Literal["cosine", "constant", "linear"],
        expert(
            _(
                "Learning-rate schedule after warm-up; if the guard searches for the best step, it holds for the "
                "training after that"
            )
        ),
    ] = "cosine"
    warmup: Annotated[float, expert(_("Warm-up, as a share of the steps")), Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, expert(_("Decoupled weight decay")), Field(ge=0)] = 0.0
    clip_norm: Annotated[float, expert(_("Gradient clipping: largest gradient norm; 0 = no clipping")), Field(ge=0)] = (
        1.0
    )
    ema: Annotated[float, expert(_("Exponential moving average (EMA) of the weights; 0 = off")), Field(ge=0, lt=1)] = (
        0.99
    )
    min_snr_gamma: Annotated[float, expert(_("Min-SNR loss weighting (Hang et al. 2023); 0 = off")), Field(ge=0)] = 5.0
    noise_offset: Annotated[
        float, expert(_("Noise offset: a constant per channel that is added to the noise")), Field(ge=0, le=1)
    ] = 0.0
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        expert(
            _("Precision of the base model's computations; trained weights stay fp32 unless the method says otherwise")
        ),
    ] = "auto"
    gradient_checkpointing: Annotated[bool, expert(_("Gradient checkpointing: a third more time for less memory"))] = (
        False
    )
    compile: Annotated[bool, expert(_("Compile the UNet; it pays only in long training runs"))] = False
    device: Annotated[str, expert(_("Device: `auto`, `cpu`, `cuda`, `cuda:1`, `mps`"))] = "auto"
    seed: Annotated[
        int, Help(_("Seed: the same recipe and seed on the same machine give the same result")), Field(ge=0)
    ] = 0
    checkpoint_every: Annotated[
        int, expert(_("Steps between saved states; 0 = ten in a training run")), Field(ge=0)
    ] = 0


class Regularize(Section):
    """Penalties on the trained weights, as steps of their own after the optimizer's (`training.penalties`).

    All three act on weights. Prior preservation (`data.reg_images`, `data.reg_generate`) acts on what the model does with
    images of the class instead, and takes twice the time.
    """

    l2: Annotated[
        float,
        expert(
            _(
                "L2 towards the base model: without gradients, this alone would shrink the update to exp(-l2) of "
                "itself over the whole training run, independent of learning rate and steps; 0 = off"
            )
        ),
        Field(ge=0),
    ] = 0.0
    l1: Annotated[
        float,
        expert(
            _(
                "L1, proximal: this share of each optimizer step is taken back, and what has no steady gradient "
                "stays exactly at the base model (ranks of a LoRA, networks of a hypernetwork, single weights in "
                "DreamBooth); 0 = off, 1 = nothing is learned"
            )
        ),
        Field(ge=0),
    ] = 0.0
    max_norm: Annotated[
        float,
        expert(_("Largest norm of the change of any layer's weight (new words: of any vector); 0 = no limit")),
        Field(ge=0),
    ] = 0.0


class Preview(Section):
    """Previews: images generated during the training, at fixed seeds."""

    prompts: Annotated[
        tuple[str, ...],
        Help(
            _(
                "Prompts of the previews; `{trigger}` stands for the trigger word; none = made from trigger word "
                "and class word"
            )
        ),
    ] = ()
    every: Annotated[int, Help(_("Steps between previews; 0 = only before and after")), Field(ge=0)] = 0
    num: Annotated[int, expert(_("Images per prompt, at seed, seed + 1, ...; 0 = no previews")), Field(ge=0, le=64)] = 2
    seed: Annotated[int, expert(_("Seed of the first preview")), Field(ge=0)] = 1
    steps: Annotated[int, expert(_("Sampling steps; 0 = the base model's own default")), Field(ge=0, le=1000)] = 0
    cfg: Annotated[float, expert(_("CFG scale; 0 = the base model's own default")), Field(ge=0)] = 0.0


class Guard(Section):
    """The overfitting guard: what is measured, and whether it may end the training."""

    mode: Annotated[
        Literal["on", "warn", "off"],
        Help(
            _(
                "Overfitting guard: `on` stops when the result no longer improves, `warn` only warns, `off` "
                "measures nothing"
            )
        ),
    ] = "on"
    folds: Annotated[
        int,
        Help(_("Cross-validation folds; 0 = automatic: hold images out from 10 on, leave one out in turn from 3 to 9")),
        Field(ge=0, le=50),
    ] = 0
    held_out: Annotated[
        float,
        expert(
            _(
                "Share of the images that is held out (12 at most; at least 4, or 2 if they are not trained on "
                "afterwards)"
            )
        ),
        Field(gt=0, le=0.5),
    ] = 0.15
    patience: Annotated[
        float,
        expert(_("Patience: how long to wait for a better step, as a share of the best step so far")),
        Field(gt=0, le=10),
    ] = 0.5
    overhead: Annotated[
        float,
        expert(_("Most time that the guard's measurements may take, as a share of the training time; 0 = no limit")),
        Field(ge=0, le=1),
    ] = 0.04
    refit: Annotated[
        bool,
        expert(_("Afterwards, go on training with all images; false = keep the result without the held-out images")),
    ] = True

    @field_validator("folds")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        if value == 1:
            raise ValueError(_("It must be 0, or 2 to 50: with one fold no image is left to train on."))
        return value


class Output(Section):
    """The written files."""

    name: Annotated[str, Help(_("File name of the result; empty = the run folder's name"))] = ""
    dtype: Annotated[Literal["fp16", "bf16", "fp32"], expert(_("Precision of the written file"))] = "fp16"
    keep_states: Annotated[int, expert(_("Saved states to keep")), Field(ge=1)] = 2
