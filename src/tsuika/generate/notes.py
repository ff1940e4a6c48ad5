"""Warnings of this part as events, in the words of `core.messages`."""

from __future__ import annotations

from collections.abc import Callable

from tsuika.core.events import Warned
from tsuika.core.messages import MESSAGES

Warn = Callable[[Warned], None]


def note(code: str, **params: object) -> Warned:
    """What happened, why, and what to do, in one English message.

    Raises:
        KeyError: the code has no message, or a placeholder no value.
    """
    parts = (MESSAGES[code]["en"][part].format(**params) for part in ("what", "why", "do"))
    what, *rest = (part for part in parts if part)
    return Warned(code, f"{what}. {' '.join(rest)}".strip())
