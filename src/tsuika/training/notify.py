"""A message at a run's end, to a webhook, a chat or a phone, through Apprise. Nothing is sent unless the recipe names where to;
a message that cannot be sent is a note. It tells the result's name and the guard's sentence, and no path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tsuika.core.errors import RecipeError, TsuikaError
from tsuika.core.events import Warned, note
from tsuika.core.files import at_home
from tsuika.core.texts import Text, _

KEY: Final = "train.notify"


def check(places: Sequence[str]) -> None:
    """Whether messages could be sent there. Raises RecipeError (RC002): Apprise is not installed, does not know such an
    address, or there is no such file."""
    _opened(places)


def _opened(places: Sequence[str]) -> list[Any]:
    """Apprise's services: of each address, and of each file all that it lists."""
    if not places:
        return []
    try:
        from apprise import Apprise, AppriseConfig
    except ImportError:
        why = _("It needs a package: pip install {name}", name="apprise")
        raise RecipeError("RC002", key=KEY, found="…", why=why) from None
    found: list[Any] = []
    for place in places:
        one = Apprise()
        if "://" in place:
            # The address itself may hold a password, and is not repeated.
            shown, is_known = f"{place.partition('://')[0]}://…", one.add(place)
        else:
            config = AppriseConfig()
            path = at_home(place)
            shown, is_known = place, path.is_file() and config.add(str(path.resolve())) and len(config) > 0
            one.add(config)
        if not is_known:
            why = _("It is neither an address nor a configuration file of Apprise.")
            raise RecipeError("RC002", key=KEY, found=shown, why=why)
        found += [*one]
    return found


def of_end(name: str, report: Mapping[str, Any], lang: str) -> tuple[str, str]:
    """Title and text for a run that has ended with a report."""
    title = _("tsuika: the training {name} is over", name=name)
    steps, files = report["steps_done"], ", ".join(Path(one["path"]).name for one in report["artifacts"])
    text = _("Steps: {steps}. Result: {files}", steps=f"{steps:,}", files=files or "–").to(lang)
    guard = (report["guard"] or {}).get("sentence", {})
    return title.to(lang), "\n".join(filter(None, (guard.get(lang) or guard.get("en"), text)))


def of_failure(name: str, error: Exception, lang: str) -> tuple[str, str]:
    """Title and text for a run that an error has ended."""
    title = _("tsuika: the training {name} has failed", name=name)
    what = f"{error.code} {error.part('what', lang)}" if isinstance(error, TsuikaError) else type(error).__name__
    return title.to(lang), what


def send(places: Sequence[str], message: tuple[str, str], *, failed: bool = False) -> Iterator[Warned]:
    """Send title and text everywhere. Yields TR024 for each place that does not take them."""
    title, text = message
    try:
        services = _opened(places)
    # The file may have changed since it was checked.
    except RecipeError as error:
        yield note("TR024", place=KEY, why=error.text("why"))
        return
    for service in services:
        why: str | Text = _("The reason is not known.")
        try:
            from apprise import LogCapture

            with LogCapture() as said:
                is_sent = service.notify(title=title, body=text, notify_type="failure" if failed else "success")
            why = (said.getvalue().strip().splitlines() or [why])[-1]
        # Whatever a service raises ends no training.
        except Exception as error:  # noqa: BLE001
            is_sent, why = False, f"{type(error).__name__}: {error}"
        if not is_sent:
            yield note("TR024", place=service.url(privacy=True).partition("?")[0], why=why)
