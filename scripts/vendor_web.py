"""The libraries of the studio's front end: fetch them from npm again and compare with the copies that the repository holds.

`python scripts/vendor_web.py` compares, `--write` writes them. Each is one file of a package at a fixed version; the only
change is that it names its neighbours by relative addresses (browsers know no package names without an inline script,
which the studio's rules forbid), or that a file made for a script tag exports what it makes. `manifest.json` has versions,
licences and hashes, of npm's file and of ours. Needs npm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "src/tsuika/studio/web/vendor"
# Our file: package, version, its file, what is put at the end.
FILES = {
    "preact.js": ("preact", "11.2.0", "dist/preact.mjs", ""),
    "hooks.js": ("preact", "11.2.0", "hooks/dist/hooks.mjs", ""),
    "signals-core.js": ("@preact/signals-core", "1.14.5", "dist/signals-core.mjs", ""),
    "signals.js": ("@preact/signals", "2.11.4", "dist/signals.mjs", ""),
    "htm.js": ("htm", "3.1.1", "dist/htm.mjs", ""),
    "htm-preact.js": ("htm", "3.1.1", "preact/index.mjs", ""),
    "uplot.js": ("uplot", "1.6.32", "dist/uPlot.iife.min.js", "\nexport default uPlot;\n"),
    "uplot.css": ("uplot", "1.6.32", "dist/uPlot.min.css", ""),
}
NEIGHBOURS = {
    "preact": "./preact.js",
    "preact/hooks": "./hooks.js",
    "@preact/signals-core": "./signals-core.js",
    "htm": "./htm.js",
}


def package(name: str, version: str, into: Path) -> Path:
    """A package of npm, unpacked."""
    done = subprocess.run(
        ["npm", "pack", f"{name}@{version}", "--json", "--pack-destination", str(into)],
        check=True,
        capture_output=True,
        text=True,
    )
    folder = into / name.replace("/", "-")
    with tarfile.open(into / json.loads(done.stdout)[0]["filename"].replace("/", "-").lstrip("@")) as packed:
        packed.extractall(folder, filter="data")
    return folder / "package"


def ours(content: str, tail: str) -> str:
    """A file as the front end has it."""
    content = re.sub(r"\n?//# sourceMappingURL=\S+\s*$", "\n", content)
    return re.sub(r'((?:from|import)\s*)"([^"./][^"]*)"', lambda one: f'{one[1]}"{NEIGHBOURS[one[2]]}"', content) + tail


def fetched(into: Path) -> dict[str, str]:
    """Every file of the folder, as npm has it now."""
    found, rows, licences = {}, [], {}
    for file, (name, version, path, tail) in FILES.items():
        folder = into / name.replace("/", "-") / "package"
        folder = folder if folder.is_dir() else package(name, version, into)
        original = (folder / path).read_text(encoding="utf-8")
        found[file] = ours(original, tail)
        about = json.loads((folder / "package.json").read_text(encoding="utf-8"))
        licences[f"{name} {version} ({about['license']})"] = (folder / "LICENSE").read_text(encoding="utf-8").strip()
        row = {"file": file, "package": name, "version": version, "licence": about["license"], "path": path}
        hashes = {"sha256_npm": original, "sha256": found[file]}
        rows.append(row | {key: hashlib.sha256(text.encode()).hexdigest() for key, text in hashes.items()})
    found["manifest.json"] = json.dumps(rows, indent=1) + "\n"
    found["LICENCES.txt"] = "\n\n\n".join(f"{name}\n\n{text}" for name, text in licences.items()) + "\n"
    return found


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    is_writing = parser.parse_args().write
    with tempfile.TemporaryDirectory() as folder:
        found = fetched(Path(folder))
    FOLDER.mkdir(parents=True, exist_ok=True)
    if is_writing:
        for name, content in found.items():
            (FOLDER / name).write_text(content, encoding="utf-8")
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*")}
    differing = sorted(name for name in {*found, *there} if found.get(name) != there.get(name))
    print("the same" if not differing else f"differs: {', '.join(differing)}")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
