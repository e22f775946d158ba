"""The command line. Standard library only: `--help` must not wait for torch, pydantic or rich."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

DEFAULT_CONFIG = "configs/megacontext_demo.yaml"

# flag -> the setting it stands for
SETTINGS = {
    "model": "model.path",
    "device_type": "model.device",
    "budget": "memory.budget",
    "cache": "memory.cache",
    "temperature": "chat.temperature",
    "top_k": "chat.top_k",
    "max_tokens": "chat.max_tokens",
    "seed": "chat.seed",
    "log_dir": "telemetry.log_dir",
    "session": "session.name",
}

EPILOG = """\
Without -p the prompt is read from stdin: a terminal starts a conversation, a pipe is one prompt. stdout carries the
assistant's text only; the meter, notices and errors go to stderr.

settings    flags > environment (MEGACONTEXT_MEMORY_BUDGET=512) > YAML > default; --print-config shows which
exit codes  0 ok, 1 failure, 2 usage or config, 3 assets missing, 4 store locked or damaged, 5 budget impossible,
            130 interrupted, 128 + n ended by signal n
"""


class Parser(argparse.ArgumentParser):
    """Answers an unknown flag with the nearest one, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}\n{self.prog} --help lists the flags.", file=sys.stderr)
        raise SystemExit(2)

    def nearest(self, flag: str) -> str:
        """' Did you mean ...?', or nothing."""
        known = [option for action in self._actions for option in action.option_strings]
        near = get_close_matches(flag.partition("=")[0], known, n=1, cutoff=0.5)
        return f" Did you mean {near[0]}?" if near else ""


def parse_flags(argv: Sequence[str]) -> argparse.Namespace:
    """Raises SystemExit: 0 after --help, 2 for a flag that does not exist or lacks its value."""
    parser = build_parser()
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unknown flag or argument {unknown[0]}.{parser.nearest(unknown[0])}")
    if (flags.sessions or flags.export or flags.import_) and (flags.prompt or flags.read):
        parser.error("--sessions, --export and --import leave when they are done: leave out -p and --read")
    return flags


def build_parser() -> Parser:
    """The flags, grouped as --help shows them."""
    parser = Parser(
        prog="python -m nanochat.chat",
        description="Chat with a model whose memory keeps everything within a fixed budget.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_talk(parser.add_argument_group("what to say"))
    _add_session(parser.add_argument_group("the conversation"))
    _add_settings(parser.add_argument_group("settings"))
    return parser


def _add_talk(group: argparse._ArgumentGroup) -> None:
    group.add_argument("-p", "--prompt", action="append", metavar="TEXT", help="say this and leave; repeat for turns")
    group.add_argument("--read", nargs="+", action="extend", metavar="FILE", help="take documents into memory first")
    group.add_argument("--json", action="store_true", help="answer in JSON lines: delta, reply, read, error; session")


def _add_session(group: argparse._ArgumentGroup) -> None:
    which = group.add_mutually_exclusive_group()
    which.add_argument("--session", metavar="NAME", help="go on with this conversation, or begin it")
    which.add_argument(
        "--continue", dest="continue_", action="store_true", help="go on with the conversation last written to"
    )
    which.add_argument("--ephemeral", action="store_true", help="keep nothing of the conversation on disk")
    alone = group.add_mutually_exclusive_group()
    alone.add_argument("--sessions", action="store_true", help="list the conversations, and leave")
    alone.add_argument(
        "--export", metavar="FILE", help="write a conversation to FILE.safetensors (all) or FILE.json, and leave"
    )
    alone.add_argument(
        "--import", dest="import_", metavar="FILE", help="take in an export, JSON messages or a text, and leave"
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--config", default=DEFAULT_CONFIG, metavar="FILE", help=f"YAML file (default {DEFAULT_CONFIG})")
    group.add_argument("--set", action="append", default=[], metavar="SECTION.FIELD=VALUE", help="any setting")
    group.add_argument("--model", metavar="PATH", help="model file or folder")
    group.add_argument("--device-type", metavar="NAME", help="auto, cpu, cuda or mps")
    group.add_argument("--budget", metavar="SLOTS", help="slots in view")
    group.add_argument("--cache", metavar="NAME", help="megacontext, full, recency or none")
    group.add_argument("-t", "--temperature", metavar="T", help="0 always takes the likeliest token")
    group.add_argument("-k", "--top-k", metavar="K", help="sample among the K likeliest tokens")
    group.add_argument("--max-tokens", metavar="N", help="most tokens of a reply")
    group.add_argument("--seed", metavar="N", help="seed of sampling")
    group.add_argument("--log-dir", metavar="DIR", help="folder of the event logs")
    group.add_argument("--print-config", action="store_true", help="print the settings and where each came from")
    group.add_argument("--debug", action="store_true", help="show tracebacks, and every event on stderr")


def setting_texts(flags: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Dotted setting -> (text, the flag it came from); the last --set of a setting wins."""
    found: dict[str, tuple[str, str]] = {}
    for assignment in flags.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            build_parser().error(f"--set {assignment}: write SECTION.FIELD=VALUE, for example memory.budget=512")
        found[name] = (text, "flag --set")
    for flag, name in SETTINGS.items():
        if getattr(flags, flag) is not None:
            found[name] = (getattr(flags, flag), f"flag --{flag.replace('_', '-')}")
    if flags.ephemeral:
        found["session.ephemeral"] = ("true", "flag --ephemeral")
    return found
