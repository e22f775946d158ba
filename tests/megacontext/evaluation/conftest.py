"""A project folder with a toy for every test below; pytest also looks here for the toys that they import."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_home import write_home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return write_home(tmp_path, monkeypatch)
