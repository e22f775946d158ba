"""One run of the decode demo: settings, event log, model, prompt, memory, continuation, and the exit code."""

from __future__ import annotations

import argparse
import os
import traceback
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from megacontext.config_loader import LoadedConfig, Override, parse_override
from megacontext.errors import ConfigError, MegaContextError
from megacontext.telemetry.run import RunLog, told
from megacontext.telemetry.scrub import scrub
from megacontext.telemetry.sinks import Sink
from nanochat.streams import PREFIX, note, reader_left, say, use_utf8
from tools.legacy.config import PLAIN, LegacyConfig, load_legacy
from tools.legacy.models import find_model
from tools.legacy.prompt import Prompt, configured_prompt, own_prompt, read_prompt

if TYPE_CHECKING:
    from megacontext.models.base import LoadedModel
    from tools.legacy.continuation import Continuation

Settings = LoadedConfig[LegacyConfig]


def run(flags: argparse.Namespace) -> int:
    """Returns the exit code; an error has been told by then."""
    use_utf8()

    def tell(error: Exception, log: Path | None = None) -> int:
        return _tell(error, log, debug=flags.debug)

    try:
        settings = load_settings(flags)
        given = flags.prompt if flags.prompt_file is None else read_prompt(flags.prompt_file)
        log = RunLog.open("decode_demo", settings, settings.config.recorded, note=note, console=flags.debug)
    except MegaContextError as error:
        return tell(error)
    code = log.run(lambda sink: _demonstrate(settings, given, sink), tell)
    note(f"log {log.path}")
    return code


def load_settings(flags: argparse.Namespace) -> Settings:
    """Flags over environment over the file over defaults. Raises ConfigError."""
    found: dict[str, Override] = {}
    for assignment in flags.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment}: write SECTION.FIELD=VALUE, for example memory.budget=448")
        found[name] = parse_override(LegacyConfig, name, text, "flag --set")
    if flags.log_dir is not None:
        found["telemetry.log_dir"] = Override(flags.log_dir, "flag --log-dir")
    return load_legacy(flags.config, overrides=found)


def _demonstrate(settings: Settings, given: str | None, sink: Sink) -> int:
    try:
        return _continue(settings, given, sink)
    except BrokenPipeError:
        return reader_left()


def _continue(settings: Settings, given: str | None, sink: Sink) -> int:
    """given: the user's own prompt; none, or an empty one, takes the configured."""
    config, decode = settings.config, settings.config.decode
    path = find_model(decode.model_name, settings.root).path  # what is missing is said before torch is loaded

    from nanochat.sampling import Sampler
    from tools.legacy.continuation import Continuation
    from tools.legacy.loading import load, open_memory

    loaded = load(decode, path, sink)
    prompt = own_prompt(loaded.text, given) if given else configured_prompt(loaded.text, decode.prompt, config.demo)
    cache = open_memory(loaded, config, len(prompt.ids) + decode.max_new_tokens - 1, sink)
    sampler = Sampler(decode.temperature if decode.do_sample else 0.0, config.demo.top_k, config.demo.seed)
    note(_about(prompt, config))
    show(Continuation(loaded, cache, sampler, decode.max_new_tokens, sink, _notes(settings, loaded)), prompt)
    return 0


def show(continuation: Continuation, prompt: Prompt) -> None:
    """The prefix, the text as it comes, the end of the line; then the figures."""
    begun = False
    with closing(continuation.pieces(prompt)) as pieces:
        try:
            for piece in pieces:
                say(piece if begun else PREFIX + piece)
                begun = True
            if not begun:  # the model had nothing to say
                say(PREFIX)
                begun = True
        finally:
            if begun:
                say("\n")
    turn = continuation.turn
    if turn is not None:
        speed = "" if turn.tokens_per_second is None else f", {turn.tokens_per_second:.1f} tokens/s"
        note(f"{turn.generated_tokens} tokens{speed}, stop: {turn.stop}")


def _about(prompt: Prompt, config: LegacyConfig) -> str:
    source = f", {prompt.from_corpus:,} of them the beginning of {_short(config.demo.corpus)}"
    memory = config.memory
    budget = "" if memory.cache in PLAIN else f", budget {memory.budget:,}"
    return f"prompt: {len(prompt.ids):,} tokens{source if prompt.from_corpus else ''}; cache {memory.cache}{budget}"


def _notes(settings: Settings, loaded: LoadedModel) -> str:
    """Which file, which model, and what of the file is not the demo's."""
    config = settings.config
    seed = loaded.summary.get("seeded")
    model = config.decode.model_name + (f" seeded {seed}" if seed is not None else "")
    unused = [name for name in ("dataset", "gistnet") if getattr(config, name) is not None]
    rest = [f"{' and '.join(unused)} not used by the demo"] if unused else []
    return scrub(", ".join([_short(settings.path or ""), model, f"run {config.decode.run_name}", *rest]))


def _short(path: str | Path) -> str:
    """As seen from the current folder, where that is shorter."""
    try:
        return min(Path(path).as_posix(), Path(os.path.relpath(path)).as_posix(), key=len)
    except ValueError:  # another drive
        return str(path)


def _tell(error: Exception, log: Path | None, *, debug: bool) -> int:
    """What, where, how to fix; the traceback only with --debug. Returns the exit code."""
    code, message = told(error, log)
    if debug:
        note(scrub("".join(traceback.format_exception(error)).rstrip()))
    note(f"error: {message}")
    return code
