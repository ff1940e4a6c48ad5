"""Open the studio: bind an address, print where it is, serve until Ctrl+C. Jobs go on without it."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import socket
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import uvicorn

from tsuika.core.errors import RecipeError
from tsuika.core.texts import Text, _
from tsuika.studio import planning
from tsuika.studio.app import application
from tsuika.studio.home import Home
from tsuika.studio.security import Access, hosts_of
from tsuika.studio.state import Studio

PORT: Final = 7878
# Ports that are tried where none was asked for.
TRIED: Final = 20
PASSWORD_LEAST: Final = 8


def serve(
    home: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    browser: bool = True,
    password_file: Path | None = None,
    commands: Sequence[Mapping[str, Any]] = (),
    labels: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    say: Callable[[Text], None] = print,
) -> None:
    """Serve the studio until it is interrupted.

    Args:
        home: Where everything is kept; made if need be.
        host: The address to listen on; other than this machine's own only with a password.
        port: 0: the usual one, or the next that is free.
        browser: Whether to open it.
        password_file: Whose first line is the password.
        commands: The command line's commands, for the forms.
        labels: What the keys of their results are called, by language.
        say: Takes what people should know.

    Raises:
        RecipeError: RC002, the host, port, password or home cannot be; RC005, a password is needed.
    """
    password = _password(password_file)
    if not is_loopback(host) and not password:
        found = _("A password (--password-file)")
        raise RecipeError("RC005", found=found, do=f"tsuika studio --host {host} --password-file FILE")
    place = Home.open(home)
    listening = _bound(host, port)
    bound = listening.getsockname()[1]
    secret = place.secret()
    key = password or hmac.new(secret, b"key", "sha256").hexdigest()[:32]
    access = Access(hosts_of(host, bound, _addresses(host)), key, secret, bound)
    studio = Studio.of(place, access, commands, labels=labels)
    studio.jobs.prune()
    planning.examine(studio)
    shown = f"http://{'127.0.0.1' if is_loopback(host) or host in ('0.0.0.0', '::') else host}:{bound}/"  # noqa: S104
    address = shown if password else f"{shown}enter?key={quote(key)}"
    say(_("The studio is open: {address}", address=address))
    say(_("Its files are in {home}. Ctrl+C closes it; running jobs go on.", home=place.root))
    if not is_loopback(host):
        say(_("Everyone in the network who knows the password can use it. What is sent is not encrypted."))
    if browser:
        webbrowser.open(address)
    config = uvicorn.Config(
        application(studio),
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        # Neither web sockets nor anything else that upgrades.
        ws="none",
        h11_max_incomplete_event_size=64 * 1024,
        limit_concurrency=400,
    )
    uvicorn.Server(config).run(sockets=[listening])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        password = file.read_text(encoding="utf-8-sig").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError("RC002", key="--password-file", found=file, why=str(error)) from None
    if len(password) < PASSWORD_LEAST:
        why = _("The password needs {least} characters at least.", least=PASSWORD_LEAST)
        raise RecipeError("RC002", key="--password-file", found=file, why=why)
    return password


def _bound(host: str, port: int) -> socket.socket:
    """A socket that listens; where no port was asked for, on the first that is free.

    Raises:
        RecipeError: RC002, it cannot be.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in [port] if port else [*range(PORT, PORT + TRIED), 0]:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
        except OSError as error:
            listening.close()
            if port or error.errno != errno.EADDRINUSE:
                key = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
                raise RecipeError("RC002", key=key, found=port if key == "--port" else host, why=str(error)) from None
            continue
        listening.set_inheritable(False)
        return listening
    raise RecipeError("RC002", key="--port", found=PORT, why=_("No port is free."))


def _addresses(host: str) -> list[str]:
    """The names of this machine in the network, where all of its addresses are listened on."""
    if host not in ("0.0.0.0", "::"):  # noqa: S104 - only compared
        return []
    name = socket.gethostname()
    try:
        found = {str(row[4][0]) for row in socket.getaddrinfo(name, None)}
    except OSError:
        found = set()
    return [name, f"{name}.local", *found]
