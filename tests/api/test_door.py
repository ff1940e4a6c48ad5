"""The package's only door."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tsuika import api


def test_every_name_is_there_and_no_other() -> None:
    assert all(getattr(api, name) is not None for name in api.__all__)
    assert set(api._MODULE) == set(api.__all__) == set(dir(api))
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = api.nothing_like_it  # type: ignore[attr-defined]


def test_looking_at_pictures_loads_no_model_library() -> None:
    code = "import sys; from tsuika import api; api.check; sys.exit(bool({'transformers', 'diffusers', 'peft'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
