"""--sessions, --export, --import: each does its work and leaves. No weights are read but to encode an import."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.errors import ConfigError
from nanochat.streams import note, say

if TYPE_CHECKING:
    from megacontext.config import DemoConfig
    from megacontext.models.text import TextModel
    from nanochat.chat.output import Output


def wanted(flags: argparse.Namespace) -> bool:
    """Whether the command line asks for one of these."""
    return bool(flags.sessions or flags.export or flags.import_)


def run_session_files(flags: argparse.Namespace, config: DemoConfig, output: Output) -> int:
    """Returns the exit code. Raises MegaContextError."""
    if flags.sessions:
        _list(config, output, table=not flags.json)
    elif flags.export:
        _export(config, output, Path(flags.export).expanduser())
    else:
        _import(config, output, Path(flags.import_).expanduser())
    return 0


def newest_session(root: str) -> str:
    """The session last written to. Raises ConfigError if there is none."""
    from megacontext.session import latest_session

    name = latest_session(root)
    if name is None:
        raise ConfigError(f"there is no session in {root} yet: a chat without --continue begins one")
    return name


def _list(config: DemoConfig, output: Output, *, table: bool) -> None:
    from megacontext.sessions.listing import list_sessions
    from nanochat.chat.session_commands import session_lines

    sessions = list_sessions(config.session.root)
    for info in sessions:
        output.fact("session", **info._asdict())
    if table:
        say("\n".join(session_lines(sessions, None)) + "\n")


def _export(config: DemoConfig, output: Output, path: Path) -> None:
    from megacontext.models.load_text import load_text
    from megacontext.session import session_folder
    from megacontext.sessions.exporting import check_target, export_session
    from megacontext.sessions.stored import read_session

    check_target(path)
    name = config.session.name or newest_session(config.session.root)
    folder = session_folder(config.session.root, name)
    if not folder.is_dir():
        raise ConfigError(f"there is no session {name} in {config.session.root}: --sessions lists them")
    session = read_session(folder)
    if session.damage:
        note(f"session {name}: {session.damage}")
    told = export_session(session, load_text(Path(config.model.path), session.vocab), path)
    output.fact("exported", name=name, file=str(path), **told._asdict())
    note(f"session {name}: {told.tokens:,} tokens, {told.messages:,} messages in {path}, {told.bytes:,} bytes")


def _import(config: DemoConfig, output: Output, path: Path) -> None:
    from megacontext.sessions.importing import import_session, is_text, read_source
    from nanochat.chat.talk import open_document

    source = read_source(path, open_document(str(path)).text if is_text(path) else None)
    text, model = _text(config)
    made = import_session(source, text, config.session.root, config.session.name, model=model)
    for line in made.said:
        note(f"{path.name}: {line}")
    output.fact("imported", file=str(path), **made._asdict())
    note(f"session {made.name}: {made.tokens:,} tokens, {made.turns:,} turns. --session {made.name} goes on with it")


def _text(config: DemoConfig) -> tuple[TextModel, str]:
    """The model's text side and its name."""
    from megacontext.models import load_model

    loaded = load_model(config.model)
    return loaded.text, loaded.name
