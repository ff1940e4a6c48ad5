"""Who may come in, against a studio that listens: every hostile request of the table, and the rules one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from hostile import EVERY_ROUTE, Hostile, requests
from PIL import Image
from running import KEY, Running, running

from tsuika import config
from tsuika.cli.main import app
from tsuika.cli.studio import described
from tsuika.core.errors import RecipeError
from tsuika.core.texts import Text
from tsuika.studio import server
from tsuika.studio.app import routes
from tsuika.studio.security import hosts_of

DOCS = Path(__file__).parents[2] / "docs/security.md"


@pytest.fixture(scope="module")
def ids(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, dict[str, str]]]:
    """A studio with a project, an image, a job and a run folder, and what stands for them in addresses."""
    home = tmp_path_factory.mktemp("home")
    with running(home, list(described(typer.main.get_group(app)))) as here:
        project = here.ask("POST", "/api/projects", {"name": "p"})[1]["id"]
        folder = here.studio.home.project(project).folder  # type: ignore[union-attr]
        Image.new("RGB", (32, 32), "red").save(folder / "images/a.png")
        image = here.ask("GET", f"/api/projects/{project}/images")[1]["images"][0]["id"]
        run = folder / "runs/one"
        (run / "artifacts").mkdir(parents=True)
        run.joinpath("recipe.toml").write_text(config.dump(config.build({"data": {"images": "images"}})))
        here.studio.home.db.insert(
            "jobs", id="j" * 12, kind="check", argv="[]", lane="light", place=0, state="done", created=0, ended=1
        )
        found = {"project": project, "image": image, "job": "j" * 12, "run": here.studio.home.key_of(run)}
        yield here, found | {"home": str(home)}


def built(one: Hostile, here: Running, ids: dict[str, str]) -> bytes:
    """The bytes of a request."""

    def filled(text: str) -> str:
        access = here.studio.access
        known = {"port": here.port, "cookie": access.cookie, "token": access.token, "name": access.cookie_name, **ids}
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    body = one.body
    if not isinstance(body, bytes):
        body = b"" if body is None else filled(json.dumps(body)).encode()
    headers: dict[str, str | None] = {"Host": here.host, "Cookie": here.cookie, "Accept": "*/*"}
    if one.method not in ("GET", "OPTIONS", "TRACE", "CONNECT"):
        headers |= {
            "Origin": here.origin,
            "X-Tsuika-Token": here.studio.access.token,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
        }
    headers |= one.headers
    lines = [f"{name}: {filled(value)}\r\n" for name, value in headers.items() if value is not None]
    return (
        f"{one.method} {filled(one.path)} HTTP/1.1\r\n{''.join(lines)}{filled(one.more)}Connection: close\r\n\r\n"
    ).encode("latin-1") + body


def files(home: Path) -> list[str]:
    """What is in projects, and what was dropped."""
    return sorted(str(path.relative_to(home)) for place in ("*/*/*/**/*", "dropped/*") for path in home.glob(place))


@pytest.mark.parametrize("one", requests(), ids=lambda one: f"{one.group}: {one.what}"[:80])
def test_a_hostile_request_does_not_get_through(one: Hostile, ids: tuple[Running, dict[str, str]]) -> None:
    here, known = ids
    before = files(Path(known["home"]))
    status, headers, body = here.raw(built(one, here, known))
    assert status == one.gets, body[:300]
    assert "access-control-allow-origin" not in headers
    assert "root:" not in body.decode("latin-1")
    assert files(Path(known["home"])) == before


def test_the_table_of_the_documentation_is_this_one() -> None:
    rows = requests()
    assert len(rows) >= 60
    text = DOCS.read_text(encoding="utf-8")
    missing = [one for one in rows if f"| {one.group} | {shown(one)} | {one.gets} |" not in text]
    assert not missing, "\n".join(f"| {one.group} | {shown(one)} | {one.gets} |" for one in missing)


def test_no_route_is_without_the_guard(ids: tuple[Running, dict[str, str]]) -> None:
    here, known = ids
    paths = routes().openapi()["paths"]
    found = [(verb.upper(), path) for path, verbs in paths.items() for verb in verbs]
    assert len(found) > 50
    # The door itself opens with a key.
    for verb, path in (one for one in found if one[1] != "/enter"):
        address, pattern = (re.sub(r"\{\w+(:path)?\}", text, path) for text in ("x", "[^/]+"))
        if verb == "GET":
            assert any(re.fullmatch(pattern, one) for one in EVERY_ROUTE), path
            continue
        for headers, status in (
            ({"Cookie": None}, 401),
            ({"X-Tsuika-Token": None}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Content-Type": "text/plain"}, 415),
        ):
            kind = "octet-stream" if "uploads" in path or "dropped" in path else "json"
            one = Hostile("", "", status, verb, address, {"Content-Type": f"application/{kind}", **headers}, {})
            assert here.raw(built(one, here, known))[0] == status, (verb, path, headers)


def shown(one: Hostile) -> str:
    """A request in the documentation."""
    return one.what.replace("|", "\\|")


def test_our_own_page_does_get_through(ids: tuple[Running, dict[str, str]]) -> None:
    """The same requests without what is hostile about them: else the table would prove nothing."""
    here, known = ids
    for path in ("/", "/web/app.js", "/api/home", f"/api/projects/{known['project']}/images/{known['image']}"):
        status, headers, _body = here.raw(built(Hostile("", "", 200, path=path), here, known))
        assert status == 200
        assert headers["content-security-policy"].startswith("default-src 'self'")
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
    status, made = here.ask("POST", "/api/projects", {"name": "q"})
    assert status == 200
    assert here.ask("DELETE", f"/api/projects/{made['id']}")[0] == 200
    assert not (Path(known["home"]) / "trash/q").exists() or (Path(known["home"]) / "trash/q/images").is_dir()


def test_the_door_takes_the_key_once_and_gives_a_cookie_for_this_host_alone(
    ids: tuple[Running, dict[str, str]],
) -> None:
    here, known = ids
    page = Hostile("", "", 303, path=f"/enter?key={KEY.replace(' ', '%20')}", headers={"Cookie": None})
    status, headers, _body = here.raw(built(page, here, known))
    assert status == 303
    assert headers["location"] == "/"
    assert "httponly" in headers["set-cookie"]
    assert "samesite=strict" in headers["set-cookie"]
    opened = Hostile("", "", 303, headers={"Cookie": None, "Accept": "text/html"}, path="/")
    status, headers, _body = here.raw(built(opened, here, known))
    assert (status, headers["location"]) == (303, "/enter")


def test_after_some_wrong_keys_none_is_looked_at(tmp_path: Path) -> None:
    with running(tmp_path) as here:
        assert not any(here.studio.access.opens("guess") for _try in range(10))
        assert not here.studio.access.opens(KEY)


def test_another_host_needs_a_password(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        server.serve(tmp_path, host="0.0.0.0", browser=False)
    assert error.value.code == "RC005"
    assert error.value.exit_status == 2
    short = tmp_path / "password"
    short.write_text("short\n")
    with pytest.raises(RecipeError, match="8 characters"):
        server.serve(tmp_path, host="0.0.0.0", password_file=short, browser=False)


def test_the_secret_is_its_owners_alone_and_not_in_the_key(tmp_path: Path) -> None:
    said: list[Text] = []
    with running(tmp_path) as here:
        secret = here.studio.home.secret()
        assert (tmp_path / ".secret").stat().st_mode & 0o077 == 0
        assert secret.hex()[:16] not in "".join(said) + here.studio.access.cookie + here.studio.access.token


def test_hosts_are_exact() -> None:
    assert hosts_of("127.0.0.1", 7878) == {"127.0.0.1:7878", "localhost:7878", "[::1]:7878"}
    assert "box.local:80" in hosts_of("0.0.0.0", 80, ["box.local"])
    assert "0.0.0.0:80" not in hosts_of("0.0.0.0", 80)
