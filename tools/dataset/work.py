"""The folder of an unfinished split, <output>.part: what is done, and for which texts and settings.

state.json says which. A folder for other texts or settings is begun anew; a folder that this tool did not make is left
alone. The finished file leaves the folder in one step, after the state says that it is finished, so that a run which is
interrupted anywhere goes on from there.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

from megacontext.errors import ConfigError
from nanochat.files import read_json, sync_folder, write_json

FORMAT = 1
SYNC_SECONDS = 2.0  # most work that an interruption undoes
STATE = "state.json"


class Clock:
    """Says when it is time to make work durable."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def rings(self) -> bool:
        now = time.monotonic()
        if now - self._last < SYNC_SECONDS:
            return False
        self._last = now
        return True


class Work:
    """rows: examples that are durable. summary: None until the file is finished, then what metadata.yaml will say.

    found: what lay there when it was opened: "nothing", "unfinished", or "other" texts or settings.
    """

    def __init__(self, output: Path, fingerprint: str, *, anew: bool = False) -> None:
        """Raises ConfigError if the folder cannot be used."""
        self.output, self.fingerprint = output, fingerprint
        self.folder = output.with_name(f"{output.name}.part")
        self.rows = 0
        self.summary: dict[str, Any] | None = None
        self.found = "nothing"
        try:
            self._open(anew)
        except OSError as error:
            raise ConfigError(
                f"{error.filename or self.folder}: cannot be written ({error.strerror}); "
                "change output_path, or set MEGACONTEXT_DATA_ROOT"
            ) from error

    def _open(self, anew: bool) -> None:
        if self.output.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(self.output))
        state = _state(self.folder)
        if state is not None and not anew and state.get("fingerprint") == self.fingerprint:
            self.found, self.rows, self.summary = "unfinished", state["rows"], state["summary"]
            return
        if state is not None:
            self.found = "other"
            _clear(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.save()

    @staticmethod
    def discard(output: Path) -> None:
        """Remove what an interrupted run left beside a file that is up to date."""
        folder = output.with_name(f"{output.name}.part")
        if _state(folder) is not None:
            _clear(folder)

    def save(self) -> None:
        """Make `rows` and `summary` durable."""
        state = {"format": FORMAT, "fingerprint": self.fingerprint, "rows": self.rows, "summary": self.summary}
        write_json(self.folder / STATE, state)

    def publish(self, made: Path) -> None:
        """Move the finished file to where it belongs, unless an interrupted run has done so. `summary` is saved."""
        if made.exists():
            os.replace(made, self.output)
            sync_folder(self.output.parent)

    def remove(self) -> None:
        """After metadata.yaml says what was made."""
        _clear(self.folder)


def _state(folder: Path) -> dict[str, Any] | None:
    """What state.json says; None if there is no folder, or nothing in it but a state that was never finished.

    Raises ConfigError for a folder that holds other things.
    """
    if not folder.exists() or all(file.name.startswith(f".{STATE}.") for file in folder.iterdir()):
        return None
    try:
        state = read_json(folder / STATE)
        if state["format"] == FORMAT and isinstance(state["rows"], int) and "summary" in state:
            return dict(state)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{folder} is no work folder of this tool; move it away, or change output_path")


def _clear(folder: Path) -> None:
    """Remove the folder, its state last: a folder without one would be taken for somebody else's."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == STATE):
        file.unlink()
    folder.rmdir()
