"""Which images are held out to see overfitting: by group, so that no image has a copy on the other side.

A function of the groups and a seed, recorded as JSON beside the run. From four different images on some are held out. Below that
no split can be trusted; with three, each of which is left out in turn, its step is a better guess than none (bench/guard).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter

from tsuika.core import kept
from tsuika.core.seeds import generator

# Numbers of different images.
LEAST_TO_HOLD_OUT: Final = 4
LEAST_TO_LEAVE_OUT: Final = 3
LEAST_HELD_OUT: Final = 2
SHARE: Final = 0.15

Kind = Literal["none", "folds", "hold-out"]
Group = tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """What is held out, by names. `none` has no part, `hold-out` one, `folds` one for each fold."""

    kind: Kind
    parts: tuple[Group, ...]  # held-out names
    groups: tuple[Group, ...]  # all names, those of the same image together
    seed: int

    def inside(self, fold: int = 0) -> Group:
        """Names to train on; all of them where there is no split."""
        out = self._out(fold)
        return tuple(name for group in self.groups for name in group if name not in out)

    def held_out_probe(self, fold: int = 0) -> Group:
        """Held-out images to measure by: one of each group, since its copies add nothing."""
        out = self._out(fold)
        return tuple(group[0] for group in _shuffled(self.groups, self.seed, "guard split") if out & set(group))

    def train_probe(self, count: int, fold: int = 0) -> Group:
        """So many of the images to train on: one of each group first, seeded."""
        out = self._out(fold)
        inside = [group for group in _shuffled(self.groups, self.seed, "guard twins", fold) if not out & set(group)]
        most = max(map(len, inside), default=0)
        ranked = [group[place] for place in range(most) for group in inside if place < len(group)]
        return tuple(ranked[:count])

    def different_inside(self, fold: int = 0) -> int:
        """Different images that are trained on."""
        return len(self.groups) - len(self.held_out_probe(fold))

    @property
    def overlap(self) -> float:
        """1 / training images of a fold, on average (`guard.reading.estimate`); 0 without folds."""
        if self.kind != "folds":
            return 0.0
        return len(self.parts) / sum(map(self.different_inside, range(len(self.parts))))

    def _out(self, fold: int) -> set[str]:
        return set(self.parts[fold]) if self.parts else set()

    def write(self, path: Path) -> None:
        """Into a file, for a run that goes on."""
        kept.write(path, asdict(self))

    @staticmethod
    def read(path: Path) -> Split:
        """From a file.

        Raises:
            FormatError: TR011, it is not there, damaged, or was changed.
        """
        return kept.read(path, TypeAdapter(Split).validate_python)


def split(
    groups: Sequence[Group],
    seed: int,
    *,
    folds: int = 0,
    share: float = SHARE,
    count: int = 0,
    sets: Mapping[str, str] | None = None,
) -> Split:
    """Hold images out, or distribute them over folds; every group stays on one side.

    Args:
        groups: every name once, as `dedupe.groups` gives them.
        seed: of the choice.
        folds: 0 decides by the number of groups; else as many folds (at most one for each group), however many there are.
        share: of the different images to hold out; at least two, and never all.
        count: of the different images to hold out, instead of a share.
        sets: which set each name is of: each gives its share, whatever their sizes. None: there is one.

    Raises:
        ValueError: a name twice, or one fold only.
    """
    names = [name for group in groups for name in group]
    if len(set(names)) != len(names) or folds == 1 or folds < 0:
        raise ValueError(f"{folds} folds of {len(names)} names, {len(set(names))} of them different")
    everything = tuple(map(tuple, groups))
    order = _shuffled(everything, seed, "guard split")
    if len(order) < (2 if folds else LEAST_TO_LEAVE_OUT):
        return Split("none", (), everything, seed)
    if folds or len(order) < LEAST_TO_HOLD_OUT:
        parts: list[list[str]] = [[] for _ in range(min(folds or len(order), len(order)))]
        home, turn = sets or {}, _turns(order, sets or {})
        # The largest groups first, each to the fold that has the fewest files of its set, then the fewest: none is empty.
        for group in sorted(order, key=lambda group: (-len(group), turn[group])):
            own = home.get(group[0], "")
            fewest = min(parts, key=lambda part: (sum(home.get(name, "") == own for name in part), len(part)))
            fewest.extend(group)
        return Split("folds", tuple(map(tuple, parts)), everything, seed)
    held_out = min(count or max(LEAST_HELD_OUT, round(share * len(order))), len(order) - 1)
    chosen = _from_each(order, held_out, sets or {})
    return Split("hold-out", (tuple(name for group in chosen for name in group),), everything, seed)


def _turns(order: Sequence[Group], sets: Mapping[str, str]) -> dict[Group, float]:
    """Where each group comes, 0..1, so that every stretch has its share of every set."""
    inside: dict[str, list[Group]] = {}
    for group in order:
        inside.setdefault(sets.get(group[0], ""), []).append(group)
    return {group: (place + 0.5) / len(own) for own in inside.values() for place, group in enumerate(own)}


def _from_each(order: Sequence[Group], count: int, sets: Mapping[str, str]) -> list[Group]:
    """The first groups of every set, as many of each as its share of all asks for; never all of a set."""
    inside: dict[str, list[Group]] = {}
    for group in order:
        inside.setdefault(sets.get(group[0], ""), []).append(group)
    taken = dict.fromkeys(inside, 0)
    for _turn in range(count):
        # Largest remaining share first (Sainte-Laguë): a set of twice the size gives twice as many.
        free = [name for name, own in inside.items() if taken[name] < len(own) - 1 or len(inside) == 1]
        if not free:
            break
        chosen = max(free, key=lambda name: len(inside[name]) / (2 * taken[name] + 1))
        taken[chosen] += 1
    out = {group for name, own in inside.items() for group in own[: taken[name]]}
    return [group for group in order if group in out]


def _shuffled(groups: Sequence[Group], seed: int, purpose: str, *numbers: int) -> list[Group]:
    """In an order that depends on the names and the seed, not on the given order."""
    import torch

    rows = sorted(groups)
    order = torch.randperm(len(rows), generator=generator(seed, purpose, *numbers)).tolist()
    return [rows[row] for row in order]
