"""Draws a session as text: its turns, its history level by level, and what of it is in view, and why. Verifies it.

    python -m tools.inspect_memory SESSION [--root DIR] [--log LOG] [--at TICK]
    python -m tools.inspect_memory SESSION --verify [--json]
    python -m tools.inspect_memory SESSION --repair [--json]
    python -m tools.inspect_memory FILE.ctx

SESSION is a name below artifacts/sessions, or a folder. The view is rebuilt from the newest event log of that session
(or from LOG), and from those of earlier runs whose view it took up; without, tokens and turns alone are shown. Only
reads: no lock is taken and no byte changed, so a session that is open elsewhere can be looked at.

--verify reads every byte of every file, in the same way, and prints a line a file (docs/ctx_format.md says what the
files are). --repair takes the session's lock, cuts damage out of what cannot be made again (into quarantine/), removes
what can be made again and is of no use, and verifies. FILE.ctx, a session's or of an earlier layout, is told in words.

Exit codes: 0 drawn, whole, or repaired; 1 the event log is damaged; 2 no such session, log or tick; 4 the session
cannot be read, or the chat refuses it as it is: its tokens are damaged before the log's tail. A torn tail and damage to
what is made again from tokens are 0: the chat mends them by itself.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # `python tools/inspect_memory.py` works from anywhere, too
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megacontext.evaluation.flags import Parser, guarded, note, whole_number

if TYPE_CHECKING:
    from megacontext.sessions.stored import StoredSession
    from tools.inspection.logged import LoggedView
    from tools.inspection.words import Words

ROOT, LOGS = Path("artifacts/sessions"), Path("artifacts/run_logs")
LEAST_WIDTH = 60


def build_parser() -> Parser:
    parser = Parser("python -m tools.inspect_memory", __doc__ or "")
    parser.add_argument("session", metavar="SESSION", help="a session's name, or its folder")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="DIR", help=f"default {ROOT.as_posix()}")
    parser.add_argument("--log", type=Path, metavar="LOG", help="the event log to take the view from")
    parser.add_argument("--log-dir", type=Path, default=LOGS, metavar="DIR", help="where logs are looked for")
    parser.add_argument("--at", type=whole_number(0), metavar="TICK", help="the view after this tick, not the last one")
    parser.add_argument("--model", type=Path, metavar="PATH", help="the model whose tokenizer made the session")
    parser.add_argument(
        "--width", type=whole_number(LEAST_WIDTH), metavar="N", help="columns (default: the terminal's)"
    )
    parser.add_argument("--all", action="store_true", help="every turn and every run of the view")
    parser.add_argument("--verify", action="store_true", help="check every byte of every file")
    parser.add_argument("--repair", action="store_true", help="make a damaged session usable again")
    parser.add_argument("--json", action="store_true", help="with --verify or --repair: one JSON object on stdout")
    return parser


def run(flags: argparse.Namespace) -> int:
    """Draw, verify or repair. Returns the exit code."""
    from megacontext.errors import ConfigError

    if flags.session.endswith(".ctx") and Path(flags.session).is_file():
        return tell_file(Path(flags.session))
    if flags.verify or flags.repair:
        return check(flags)
    if flags.json:
        raise ConfigError("--json goes with --verify or --repair: the drawing is text")
    return inspect(flags)


def tell_file(path: Path) -> int:
    """What one .ctx file is. Returns the exit code."""
    from nanochat.harmless import harmless
    from tools.inspection.ctx_file import ctx_lines

    print(harmless("\n".join(ctx_lines(path))))
    return 0


def check(flags: argparse.Namespace) -> int:
    """Verify, with --repair after repairing, and print the states of the files."""
    from nanochat.harmless import harmless
    from tools.inspection.finding import find_folder
    from tools.inspection.repair import repair
    from tools.inspection.states import as_json, state_lines
    from tools.inspection.verify import verify

    folder = find_folder(flags.root, flags.session)
    done: list[str] = []

    def tell(step: str) -> None:
        done.append(step)
        note(harmless(step))

    found = repair(folder, tell) if flags.repair else verify(folder)
    if flags.repair and not done:
        note("nothing to repair")
    print(as_json(found, done) if flags.json else harmless("\n".join(state_lines(found))))
    return found.exit_code


def inspect(flags: argparse.Namespace) -> int:
    """Read, draw, print. Returns the exit code."""
    from megacontext.sessions.stored import read_session
    from nanochat.harmless import harmless
    from tools.inspection.finding import find_folder
    from tools.inspection.words import find_words

    session = read_session(find_folder(flags.root, flags.session))
    view = _view(flags, session)
    words = find_words(session, flags.model or _model_of(view))
    if isinstance(words, str):
        note(words)
    print(harmless("\n".join(_lines(flags, session, view, None if isinstance(words, str) else words))))
    return 0


def _view(flags: argparse.Namespace, session: StoredSession) -> LoggedView | None:
    """The view of the log that was named, or of the newest one; None, with a word, where there is none."""
    from megacontext.errors import MegaContextError
    from tools.inspection.logged import read_view
    from tools.inspection.runs import find_log

    if flags.log is not None:
        return read_view(flags.log, session.folder, len(session.tokens), flags.at)
    found = find_log(flags.log_dir, session.folder)
    if found is None:
        note(f"no event log of session {session.name} in {flags.log_dir}: its view is not known; name one with --log")
        return None
    try:
        return read_view(found, session.folder, len(session.tokens), flags.at)
    except MegaContextError as error:
        if flags.at is not None:
            raise
        note(f"its view is not shown: {error}")
        return None


def _model_of(view: LoggedView | None) -> Path | None:
    """The model file that the run names, if it was read from a log."""
    told = None if view is None else (view.log.start.config.get("model") or {}).get("path")
    return Path(told) if isinstance(told, str) else None


def _lines(
    flags: argparse.Namespace, session: StoredSession, view: LoggedView | None, words: Words | None
) -> list[str]:
    from tools.inspection.drawing import head_lines, strip_lines, tree_lines, turn_lines, view_lines

    width = flags.width or max(shutil.get_terminal_size((100, 24)).columns, LEAST_WIDTH)
    context = None if view is None else view.context
    parts = [head_lines(session), turn_lines(session, words, width, everything=flags.all)]
    parts.append(strip_lines(context, session, width))
    if view is not None:
        parts += [tree_lines(view.context), view_lines(view, words, width, everything=flags.all)]
    return [line for part in parts if part for line in (*part, "")][:-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    return guarded(run, build_parser(), argv)


if __name__ == "__main__":
    sys.exit(main())
