"""The event log of one run of a program, from run_start to run_end: the one door through which every program logs.

Which sinks there are is decided here: the file always, the terminal and W&B on request. Knows nothing of what the
program does, and nothing of torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.errors import MegaContextError
from megacontext.telemetry.console import ConsoleSink
from megacontext.telemetry.events import Error, RunEnd, RunStart, Warning_
from megacontext.telemetry.scrub import ScrubSink, scrub
from megacontext.telemetry.sinks import FanOut, JsonlSink, Sink
from megacontext.telemetry.ticks import TickSummary

if TYPE_CHECKING:
    from megacontext.config import TelemetryConfig
    from megacontext.config_loader import LoadedConfig

INTERRUPTED = 130
LONGEST_TRACEBACK = 16_000  # characters of it in the log
ENABLE_WANDB = "MEGACONTEXT_ENABLE_WANDB"
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")

Note = Callable[[str], None]


class RunLog:
    """An open log. path: its file. sink: where the memory, the conversation and the program send their events."""

    def __init__(self, file: JsonlSink, sinks: Sequence[Sink], extra: Sequence[Sink], note: Note) -> None:
        self.path = file.path
        self._file = file
        written = FanOut([file, *sinks])
        self._summary = TickSummary(written)
        raw = FanOut([self._summary, *extra])
        self.sink: Sink = ScrubSink(raw)
        self._fans = (written, raw)
        self._note = note
        self._started = time.monotonic()

    @classmethod
    def open(
        cls,
        program: str,
        loaded: LoadedConfig[Any],
        telemetry: TelemetryConfig,
        *,
        note: Note,
        console: bool = False,
        extra: Sequence[Sink] = (),
    ) -> RunLog:
        """Make `<log_dir>/<run>-<time>.log` and write run_start into it.

        program: chat or decode_demo. note: tells the user a line. console: every event on stderr, too. extra: sinks
        that get each tick by itself, not sums of ticks. Raises ConfigError if the log cannot be made.
        """
        file = JsonlSink(telemetry.log_dir, loaded.run)
        start = _run_start(program, loaded)
        enabled, warning = _wandb_wanted(os.environ.get(ENABLE_WANDB, ""))
        sinks: list[Sink] = [ConsoleSink()] if console else []
        if enabled:
            sinks.append(_wandb(program, telemetry, start.config, file, note))
        log = cls(file, sinks, extra, note)
        log.sink.emit(start)
        if warning is not None:
            log.sink.emit(warning)
            note(f"warning: {warning.message}: {warning.hint}")
        return log

    def run(self, body: Callable[[Sink], int], tell: Callable[[Exception, Path | None], int]) -> int:
        """Call `body` with the sink, and end the log whatever happens. Returns the exit code.

        An exception is logged, then handed to `tell` with the log's path; `tell` gives the exit code. Ctrl-C: 130.
        """
        code = 1
        try:
            code = body(self.sink)
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:  # the program's outermost boundary: everything is logged, then told
            self.sink.emit(error_event(error))
            code = tell(error, self.path)
        finally:
            self._end(code)
        return code

    def _end(self, code: int) -> None:
        self._summary.flush()  # so that the totals count what was still being summed
        seconds = round(time.monotonic() - self._started, 3)
        self.sink.emit(RunEnd(exit_code=code, seconds=seconds, totals=dict(self._file.counts)))
        self.sink.close()
        if self._file.failure is not None:
            self._note(f"warning: the event log {self.path} is incomplete ({self._file.failure.strerror})")
        for name, error in [item for fan in self._fans for item in fan.failures.items()]:
            self._note(f"warning: {name} failed and missed events ({type(error).__name__}: {scrub(str(error))})")


def error_event(error: Exception) -> Error:
    """What the log keeps of an exception."""
    trace = scrub("".join(traceback.format_exception(error)))  # before it is cut: half a secret would not be found
    return Error(kind=type(error).__name__, message=scrub(str(error)), traceback=trace[-LONGEST_TRACEBACK:])


def told(error: Exception, log: Path | None) -> tuple[int, str]:
    """(exit code, what the user is told of an error): no secret in it, and for a bug where the traceback is."""
    if isinstance(error, MegaContextError):
        return error.exit_code, scrub(str(error))
    hint = "" if log is None else f"\nThe log has the traceback: {log}"
    return 1, scrub(f"{type(error).__name__}: {error}") + hint


def _run_start(program: str, loaded: LoadedConfig[Any]) -> RunStart:
    config = scrub(loaded.config.model_dump(mode="json"))
    return RunStart(
        program=program,
        config=config,
        config_path=None if loaded.path is None else str(loaded.path),
        versions={
            "python": platform.python_version(),
            "torch": _version("torch"),
            "megacontext": _version("megacontext"),
        },
        fingerprints={"config": _fingerprint(config)},
    )


def _fingerprint(config: dict[str, Any]) -> str:
    """16 hexadecimal digits that two runs with the same settings share."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "source"


def _wandb_wanted(value: str) -> tuple[bool, Warning_ | None]:
    """What MEGACONTEXT_ENABLE_WANDB says, and a warning if that is neither yes nor no."""
    word = value.strip().lower()
    if word in YES + NO:
        return word in YES, None
    return False, Warning_(message=f"{ENABLE_WANDB}={value} is neither 1 nor 0", hint="nothing is sent to W&B")


def _wandb(program: str, telemetry: TelemetryConfig, config: dict[str, Any], file: JsonlSink, note: Note) -> Sink:
    """The run `<program>/<time of the log>`; its warnings stand in the file, too."""
    from megacontext.telemetry.wandb_sink import WandbSink

    return WandbSink(
        name=f"{program}/{file.path.stem.rpartition('-')[2]}",
        project=scrub(telemetry.wandb_project),
        entity=scrub(telemetry.wandb_entity),
        config=config,
        folder=file.path.parent,
        note=note,
        warn=ScrubSink(file).emit,
    )
