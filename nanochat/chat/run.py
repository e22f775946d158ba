"""One run of the chat: settings, event log, model, memory, talk, and the exit code, in this order."""

from __future__ import annotations

import argparse
import errno
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.config import DemoConfig
from megacontext.config_loader import LoadedConfig, load_config, parse_override, print_config
from megacontext.errors import ConfigError, MegaContextError
from megacontext.telemetry.run import INTERRUPTED, RunLog, told
from megacontext.telemetry.scrub import scrub
from megacontext.telemetry.sinks import Sink
from nanochat.chat.flags import setting_texts
from nanochat.chat.output import JsonOutput, Output, TextOutput
from nanochat.chat.session_files import newest_session, run_session_files, wanted
from nanochat.chat.terminal import Ended, let_go_of_terminal, orderly_end
from nanochat.streams import note, reader_left, use_utf8

if TYPE_CHECKING:
    from nanochat.chat.talk import Talk


def run(flags: argparse.Namespace) -> int:
    """Returns the exit code; an error has been told by then."""
    use_utf8()
    output: Output = JsonOutput() if flags.json else TextOutput()
    try:
        settings = load_settings(flags)
        if flags.print_config:
            sys.stdout.write(scrub(print_config(settings)))
            return 0
        if wanted(flags):
            return run_session_files(flags, settings.config, output)
        log = RunLog.open("chat", settings, settings.config.telemetry, note=note, console=flags.debug)
    except MegaContextError as error:
        return _tell(error, output, debug=flags.debug)
    return log.run(
        lambda sink: _converse(flags, settings.config, output, sink),
        lambda error, path: _tell(error, output, debug=flags.debug, log=path),
    )


def load_settings(flags: argparse.Namespace) -> LoadedConfig[DemoConfig]:
    """Flags over environment over the YAML file over defaults. Raises ConfigError."""
    texts = setting_texts(flags).items()
    overrides = {name: parse_override(DemoConfig, name, text, source) for name, (text, source) in texts}
    settings: LoadedConfig[DemoConfig] = load_config(flags.config, overrides=overrides)
    if not flags.continue_:
        return settings
    newest = newest_session(settings.config.session.root)
    overrides["session.name"] = parse_override(DemoConfig, "session.name", newest, "flag --continue")
    return load_config(flags.config, overrides=overrides)


def _converse(flags: argparse.Namespace, config: DemoConfig, output: Output, sink: Sink) -> int:
    try:
        with orderly_end():
            return _take_turns(flags, config, output, sink)
    except Ended as end:
        return end.code
    except BrokenPipeError:
        return reader_left()
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        let_go_of_terminal()  # it was closed, and no signal has said so yet
        return 1


def _take_turns(flags: argparse.Namespace, config: DemoConfig, output: Output, sink: Sink) -> int:
    """Documents first, then what is said."""
    from nanochat.chat.setup import open_talk
    from nanochat.chat.talk import open_document

    documents = [open_document(name) for name in flags.read or ()]
    prompts = _prompts(flags)
    with open_talk(config, output, sink) as talk:
        for document in documents:
            if talk.read(document).event.stop == "interrupted":
                return INTERRUPTED
        code = _say_all(talk, prompts)
    if talk.desk.failure is not None:
        raise talk.desk.failure
    return code


def _say_all(talk: Talk, prompts: list[str] | None) -> int:
    """Prompts that were given, or (None) a conversation at the terminal."""
    if prompts is None:
        from nanochat.chat.repl import repl

        return repl(talk)
    for prompt in prompts:
        if talk.say(prompt).event.stop == "interrupted":
            return INTERRUPTED
    return 0


def _prompts(flags: argparse.Namespace) -> list[str] | None:
    """From -p, else from a pipe; None at a terminal. Raises ConfigError if there is nothing to do."""
    if flags.prompt is None and sys.stdin.isatty():
        return None
    prompts = [sys.stdin.read()] if flags.prompt is None else [_prompt(text) for text in flags.prompt]
    found = [prompt for prompt in (text.strip("\n") for text in prompts) if prompt.strip()]
    if not found and not flags.read:
        raise ConfigError("nothing to say: the prompt is empty. Give -p TEXT, or text on stdin.")
    return found


def _prompt(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _tell(error: Exception, output: Output, *, debug: bool, log: Path | None = None) -> int:
    """What, where, how to fix; the traceback only with --debug. Returns the exit code."""
    code, message = told(error, log)
    if debug:
        note(scrub("".join(traceback.format_exception(error)).rstrip()))
    output.error(code, message)
    return code
