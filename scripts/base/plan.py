"""Every number of the making of the base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MAX_TOKENS: Final = 32
TRAIN_TIMESTEPS: Final = 1000
# SD's scaled-linear, ended noisier: 16x16 latents leak their mean at SD's own 0.012. At 0.02 the last step keeps an amplitude
# of 0.015 (SD's own: 0.068), so that a schedule of zero terminal SNR, which not every sampler can start from, has little to add.
SCHEDULE: Final = {
    "num_train_timesteps": TRAIN_TIMESTEPS, "beta_start": 0.00085, "beta_end": 0.02, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
}  # fmt: skip
SAMPLING: Final = {"cfg": 3.0, "steps": 25, "sampler": "DDIM"}  # the base's own defaults


@dataclass(frozen=True)
class Plan:
    """How the trainings go. `DIR/plan.json` may hold other values.

    A step count may still change while the rate is constant; after that, by going on from `*-before-decay.pt`.
    """

    seed: int = 20261130
    vae_steps: int = 12_000
    vae_decay: int = 4_000  # the last steps, in which the rate falls to zero
    vae_batch: int = 24
    vae_lr: float = 1e-3
    vae_warmup: int = 200
    vae_ema: float = 0.999
    latent_noise: float = 0.03
    save_every_s: float = 150
    unet_steps: int = 16_000
    unet_decay: int = 5_000  # the last steps, in which the rate falls to zero
    unet_batch: int = 32
    unet_lr: float = 1e-3
    unet_warmup: int = 300
    # The step at which the optimizer began with nothing: not 0 where a base that shipped was taken up.
    unet_began: int = 0
    pool: int = 4096  # pictures drawn and encoded at a time ...
    views: int = 8  # ... and how often each is seen, under fresh noise
    caption_dropout: float = 0.1
    min_snr_gamma: float = 5.0
    # min-SNR alone leaves the noisiest third of the timesteps less than 3 % of a weight, and these settle what is drawn where.
    least_weight: float = 0.15
    said_weight: float = 0.05  # of the questions to the text encoder, against the denoising loss of about 0.07
    thing_weight: float = 2.0  # loss weight of a latent under a thing, against 1 on the background
    examiner_steps: int = 1_500  # from the yardstick's trunk
    yardstick_steps: int = 5_000
    judge_batch: int = 64  # of the examiner and the yardstick
    judge_lr: float = 2e-3
    judged: int = 256  # fresh pictures that the held-out loss is measured on ...
    judge_every: int = 500  # ... so many steps apart


def plan_of(work: Path) -> Plan:
    """The plan, with the values that `work/plan.json` sets otherwise."""
    path = work / "plan.json"
    return Plan(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Plan()
