"""What a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tsuika import families, formats
from tsuika.core.errors import ModelError
from tsuika.core.files import sha256


def inspect(file: Path) -> dict[str, Any]:
    """What a file or folder is: an artifact's method, family, layers and metadata, or a base's family.

    Raises:
        ModelError: MD001, not there; FormatError: damaged or of no known kind.
    """
    if not file.exists():
        raise ModelError("MD001", where=file, why="There is no such file or folder.")
    if formats.is_artifact(file):
        artifact = formats.find(file).read(file)
        layers = {name.rsplit(".lora_", 1)[0] for name in artifact.tensors if ".lora_" in name}
        metadata = formats.read_header(file).metadata if file.is_file() else artifact.metadata
        return {
            "kind": artifact.method, "family": artifact.family, "format": formats.find(file).name, "layers": len(layers),
            "tensors": len(artifact.tensors), "sha256": sha256(file) if file.is_file() else None, "metadata": metadata,
        }  # fmt: skip
    found = families.detect(file)
    return {
        "kind": "base model",
        "family": found.facts.family,
        "title": found.facts.title,
        "prediction": found.prediction,
        "layout": found.kind,
    }
