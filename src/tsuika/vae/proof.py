"""Whether a tuned VAE is better on images it has never seen: which ones these are, and what they say.

Three parts share no image: to train on, to choose the step by, to prove by; what was chosen by images looks better on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from tsuika.core.bootstrap import of_differences
from tsuika.core.errors import ImageError
from tsuika.core.intervals import Interval
from tsuika.data.split import Group, split
from tsuika.vae import metrics, roundtrip
from tsuika.vae.tune import PROOF, Purpose

LEAST: Final = 12  # different images: seven or more to learn from, one or two to choose by, four to prove by
_SHARE, _MOST = 0.4, 72  # held out


@dataclass(frozen=True)
class Parts:
    train: tuple[str, ...]
    choose: tuple[str, ...]
    prove: tuple[str, ...]


def parts(groups: Sequence[Group], seed: int) -> Parts:
    """Deal images out, those of one group together. Raises ImageError (VA021): too few different ones."""
    if len(groups) < LEAST:
        raise ImageError("VA021", found=len(groups), needed=LEAST)
    dealt = split(groups, seed, count=min(_MOST, round(_SHARE * len(groups))))
    out = set(dealt.parts[0])
    held = [group for group in groups if out & set(group)]
    first = max(1, len(held) // 3)
    choose, prove = ([name for group in some for name in group] for some in (held[:first], held[first:]))
    return Parts(dealt.inside(), tuple(choose), tuple(prove))


@dataclass(frozen=True)
class Proof:
    """Changes of every measure on the images kept for proving: after - before."""

    measure: str  # what had to become better
    changes: Mapping[str, Interval]
    before: Mapping[str, float]
    after: Mapping[str, float]

    @property
    def is_better(self) -> bool:
        """Whether that measure is better by more than chance."""
        return self.changes[self.measure].sign == (1 if metrics.MEASURES[self.measure] else -1)

    @property
    def costs(self) -> list[str]:
        """The measures that are worse by more than chance."""
        worse: dict[bool | None, int] = {True: -1, False: 1}
        return [name for name, change in self.changes.items() if change.sign == worse.get(metrics.MEASURES[name])]


def prove(
    before: Sequence[Mapping[str, float]],
    after: Sequence[Mapping[str, float]],
    groups: Sequence[int],
    purpose: Purpose,
    seed: int,
) -> Proof:
    """From the measures of the same images before and after."""
    names = list(metrics.MEASURES)
    changes = {
        name: of_differences([row[name] for row in after], [row[name] for row in before], groups, seed=seed)
        for name in names
    }
    first, second = ({name: metrics.mean(rows, name) for name in names} for rows in (before, after))
    return Proof(PROOF[purpose], changes, first, second)


def measured(vae: nn.Module, pictures: Sequence[Tensor]) -> list[dict[str, float]]:
    """`metrics.measure` of each image (1, 3, H, W) after a round trip."""
    made = (roundtrip.decode(vae, roundtrip.encode(vae, picture)) for picture in pictures)
    return [metrics.measure(one, picture.to(one.device))[0] for one, picture in zip(made, pictures, strict=True)]


def narrowest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The smallest number type that holds these numbers bit for bit: what they were stored in."""
    every = list(tensors)
    for dtype in (torch.float16, torch.bfloat16):
        if all(torch.equal(one.to(dtype).to(one.dtype), one) for one in every):
            return dtype
    return torch.float32


def rounded(vae: nn.Module, dtype: torch.dtype) -> None:
    """Give a VAE's numbers, in place, what storing them in `dtype` leaves: what is proven is what is written."""
    for value in vae.state_dict().values():
        value.copy_(value.to(dtype))


def words(change: Interval) -> dict[str, str]:
    """An interval for a message: `mean`, `low`, `high`."""
    return {key: "–" if value is None else f"{value:+.3f}" for key, value in change.to_dict().items()}
