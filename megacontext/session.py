"""One conversation's memory on disk: a folder with its tokens, what they were made with, and where its turns are.

    <root>/<name>/session.json    what made it: model, vocabulary, fingerprint, when
                  tokens.log      the tokens (tree.token_log)
                  turns.jsonl     token ranges, for showing the history (tree.turn_file)

Tokens are the truth: a turn whose tokens did not reach the disk is dropped on opening. Knows no pages and no gists.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError, StoreError
from megacontext.tree.memory_log import MemoryLog
from megacontext.tree.token_frames import HEADER_BYTES
from megacontext.tree.token_log import DamagedLogError, TokenLog
from megacontext.tree.turn_file import ROLE, Turn, append_turns, mend_turns
from megacontext.tree.turn_file import TURNS_LIMIT as TURNS_LIMIT
from megacontext.tree.turn_file import parse_turns as parse_turns
from nanochat.files import read_json, remove_leftovers, write_json

if TYPE_CHECKING:
    import numpy as np

FORMAT, VERSION = "megacontext.session", 1
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
INFO_NAME, LOG_NAME, TURNS_NAME = "session.json", "tokens.log", "turns.jsonl"
INFO_LIMIT = 1 << 20  # bytes that are read of it at most
INFO_KEYS = {"format", "version", "name", "created", "model", "weights", "vocab", "fingerprint"}


def session_folder(root: Path | str, name: str) -> Path:
    """Where a session lies. Raises ConfigError if the name is not a plain one, or leads out of `root`."""
    root = Path(root)
    folder = root / name
    if not NAME.fullmatch(name) or folder.resolve().parent != root.resolve():
        raise ConfigError(
            f"session name {name!r} is not usable: 1 to 64 letters, digits, '.', '_' or '-', no '.' at its beginning, "
            f"and no link out of {root}"
        )
    return folder


def session_names(root: Path | str) -> list[str]:
    """Names of the sessions below `root`, in no order. A link is none, nor what is still being made."""
    logs = Path(root).glob(f"*/{LOG_NAME}")
    return [log.parent.name for log in logs if NAME.fullmatch(log.parent.name) and not log.parent.is_symlink()]


def latest_session(root: Path | str) -> str | None:
    """Name of the session last written to, or None. One in which nothing was said does not count."""
    states = {name: (Path(root) / name / LOG_NAME).lstat() for name in session_names(root)}
    written = {name: state.st_mtime_ns for name, state in states.items() if state.st_size > HEADER_BYTES}
    return max(written, key=written.__getitem__, default=None)


def repair_command(folder: Path) -> str:
    """What to run when a session cannot be opened because it is damaged."""
    with suppress(ValueError):
        folder = folder.resolve().relative_to(Path.cwd())
    return f"python -m tools.inspect_memory {shlex.quote(folder.as_posix())} --repair"


class Session:
    """Use `open`. `name` and `folder` are None for an ephemeral one, which leaves no trace."""

    def __init__(self, name: str | None, folder: Path | None, log: MemoryLog, turns: list[Turn]) -> None:
        self.name, self.folder, self.log = name, folder, log
        self._turns = turns
        self._kept = len(turns)  # turns that are in the file, which has so many bytes
        self._kept_bytes = 0 if folder is None else _size_of(folder / TURNS_NAME)

    @classmethod
    def open(
        cls,
        root: Path | str,
        name: str | None,
        *,
        vocab: int,
        fingerprint: str,
        model: str = "",
        weights: str = "",
        ephemeral: bool = False,
        repair: bool = False,
    ) -> Session:
        """Open the session `name` below `root`, or begin it. name None: begin a new one, named by the time.

        vocab, fingerprint: of the tokenizer. model: a name to show. weights: the model's fingerprint.
        repair: as in TokenLog.open.
        Raises ConfigError for an unusable name, StoreError if it is in use, damaged, or another tokenizer's.
        """
        if ephemeral:
            return cls(None, None, MemoryLog(vocab=vocab), [])
        name = _new_name() if name is None else name
        folder = session_folder(root, name)
        made_with = {"vocab": vocab, "fingerprint": fingerprint}
        try:
            _refuse_strange_files(folder)
            _check_info(folder / INFO_NAME, made_with)
            _refuse_lost_log(folder)
            log = TokenLog.open(folder / LOG_NAME, vocab=vocab, fingerprint=fingerprint, repair=repair)
            try:
                remove_leftovers(folder)
                if not (folder / INFO_NAME).exists():
                    head = {"format": FORMAT, "version": VERSION, "name": name, "created": _now(), "model": model}
                    info = head | {"weights": weights} | made_with
                    write_json(folder / INFO_NAME, info | {"check": checksum_of(info)}, mode=0o600)
                return cls(name, folder, log, mend_turns(folder / TURNS_NAME, len(log))[0])
            except BaseException:
                log.close()
                raise
        except DamagedLogError as error:
            raise StoreError(
                f"{error}. Nothing was changed. To keep what can be read and move the rest to quarantine/: "
                f"{repair_command(folder)}"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot open the session {folder}: {error}") from error

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Tokens so far."""
        return len(self.log)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Turns in the order they were added."""
        return tuple(self._turns)

    @property
    def ended(self) -> bool:
        """Whether the last token is the end of a turn: nothing was cut short after it."""
        return bool(self._turns) and self._turns[-1].stop == len(self)

    def append(self, tokens: list[int]) -> None:
        """Take tokens at the end; on disk with the next `sync`. Raises as TokenLog.append does."""
        self.log.append(tokens)

    def tokens(self, start: int, stop: int) -> list[int]:
        """Tokens [start, stop)."""
        return self.log.tokens(start, stop)

    def array(self, start: int, stop: int) -> np.ndarray:
        """Tokens [start, stop) as (stop - start,) uint32."""
        return self.log.array(start, stop)

    def add_turn(self, role: str, start: int, stop: int) -> None:
        """Note that tokens [start, stop) are a turn of `role`; on disk with the next `sync`.

        Raises ValueError if it overlaps the turn before, or goes beyond the tokens.
        """
        least = self._turns[-1].stop if self._turns else 0
        if not least <= start <= stop <= len(self) or not ROLE.fullmatch(role):
            raise ValueError(f"turn [{start}, {stop}) of {role!r} does not lie in [{least}, {len(self)})")
        self._turns.append(Turn(start, stop, role))

    def sync(self) -> None:
        """Make tokens and turns durable, tokens first. Raises StoreError if the disk fails."""
        self.log.sync()
        if self.folder is None or self._kept == len(self._turns):
            return
        try:
            self._kept_bytes = append_turns(self.folder / TURNS_NAME, self._turns[self._kept :], self._kept_bytes)
        except OSError as error:
            raise StoreError(f"cannot write {self.folder / TURNS_NAME}: {error}. The tokens are safe.") from error
        self._kept = len(self._turns)

    def close(self) -> None:
        """Sync, unless the disk has failed already, and let go."""
        try:
            if not getattr(self.log, "failed", ""):
                self.sync()
        finally:
            self.log.close()


def _new_name() -> str:
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def checksum_of(info: Mapping[str, object]) -> str:
    """crc32 of what session.json says, but for its own checksum."""
    said = {key: value for key, value in info.items() if key != "check"}
    return f"{zlib.crc32(json.dumps(said, sort_keys=True).encode()):08x}"


def is_intact(info: Mapping[str, object]) -> bool:
    """Whether session.json says what was written. Once it had no checksum."""
    return info["check"] == checksum_of(info) if "check" in info else info.keys() <= INFO_KEYS


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _refuse_strange_files(folder: Path) -> None:
    """A session that came from elsewhere must not make us write, or show, a file outside of it, nor wait for a pipe."""
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_symlink():
            raise StoreError(f"{path} is a link: a session's files are never links. Put the file itself in its place.")
        if not (path.is_file() or path.is_dir()):
            raise StoreError(f"{path} is a pipe or a device: no file of a session is. Move it away.")


def _refuse_lost_log(folder: Path) -> None:
    """The log is made before session.json is: without it, tokens were lost, and a new log would hide that."""
    if (folder / INFO_NAME).exists() and not (folder / LOG_NAME).exists():
        raise StoreError(
            f"{folder / LOG_NAME} is missing, and with it the session's tokens: restore it from a copy, or use "
            "another name"
        )


def _check_info(path: Path, wanted: Mapping[str, object]) -> None:
    """Say in words what differs, where the log itself could only show digests."""
    if not path.exists():
        return
    try:
        found = read_json(path, limit=INFO_LIMIT)
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{error}. The tokens beside it can be read without it. To move it to quarantine/: "
            f"{repair_command(path.parent)}"
        ) from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or found.get("version") != VERSION:
        raise StoreError(f"{path} is no session of version {VERSION}")
    if not is_intact(found):
        raise StoreError(f"{path} is damaged. To move it to quarantine/: {repair_command(path.parent)}")
    for key in ("vocab", "fingerprint"):
        if found.get(key) != wanted[key]:
            raise StoreError(
                f"the session in {path.parent} was made with {key} {found.get(key)!r} (model {found.get('model')!r}), "
                f"this model has {wanted[key]!r}: use the model it was made with, or another session"
            )
