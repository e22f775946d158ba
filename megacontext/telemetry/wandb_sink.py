"""The W&B sink: one W&B run beside one event log. The one place where wandb is imported, when the first event comes.

WANDB_MODE decides as everywhere (online, offline, disabled). Without a key, or where W&B does not answer, the run is
recorded offline, said in one line. Nothing that happens inside wandb reaches the program: the sink then goes quiet
and keeps the reason in `failure`. wandb gets our numbers and the scrubbed settings; no text of the console or the
command line, no code, no list of packages, no host name. What the rows hold stands in `wandb_rows.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.telemetry.events import Event, ModelLoaded, RunEnd, RunStart, Tick, Turn, Warning_
from megacontext.telemetry.scrub import scrub
from megacontext.telemetry.sinks import payload
from megacontext.telemetry.wandb_key import has_kept_key
from megacontext.telemetry.wandb_rows import AXES, Totals, tick_row, turn_row

if TYPE_CHECKING:
    import wandb

INIT_S = 7  # until the run is recorded offline; with the import and a second start, less than 12 in all
FINISH_S = 5  # that the end of a run waits for what is not yet sent
LONGEST_REASON = 160  # characters of wandb's own words in our line
OLDEST = (0, 28, 2)  # before, a server that does not answer is waited for without end
EXTRA = "the extra `wandb` brings it (pip install -e '.[wandb]', or python tools/bootstrap_env.py --extras wandb)"

QUIET = {"console": "off", "silent": True}
PRIVATE = {
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "label_disable": True,
    "host": "",
}
BOUNDED = {
    "x_service_wait": INIT_S,
    "init_timeout": INIT_S,
    "finish_timeout": FINISH_S,
    "finish_timeout_raises": True,
}


class WandbSink:
    """Sends ticks and turns to the W&B run `name`, which begins with the first event. Never raises.

    folder: the log folder; wandb keeps the run's files in its subfolder `wandb`, readable by the owner alone.
    note: tells the user a line. warn: takes a warning when less is recorded than was asked for; it must be a sink
    that is open, such as the file's `emit`.
    """

    def __init__(
        self,
        name: str,
        project: str,
        entity: str | None,
        config: dict[str, Any],
        folder: Path,
        note: Callable[[str], None],
        warn: Callable[[Event], None] | None = None,
    ) -> None:
        self.failure: Exception | None = None
        self._about = {"name": name, "project": project, "entity": entity, "config": scrub(config)}
        self._folder = folder
        self._note = note
        self._warn = warn
        self._lock = threading.RLock()
        self._begun = False
        self._run: wandb.Run | None = None
        self._abandoned: str | None = None  # the id of a run that did not get through to W&B
        self._totals = Totals()
        self._end: dict[str, float] = {}
        self._exit_code = 1

    def emit(self, event: Event) -> None:
        with self._lock:
            if self.failure is not None:
                return
            try:
                if not self._begun:
                    self._begun = True
                    self._run = self._begin()
                if self._run is not None:
                    self._take(event, self._run)
            except Exception as error:  # wandb's errors are of many kinds, and none may end a conversation
                self._give_up(error)

    def close(self) -> None:
        with self._lock:
            self._begun = True
            run, self._run = self._run, None
        if run is not None:
            self._finish(run)
            self._remove_abandoned()

    def _finish(self, run: wandb.Run) -> None:
        """Waits for FINISH_S at most."""
        try:
            run.summary.update(self._totals.row() | self._end)
            run.finish(exit_code=self._exit_code)
        except KeyboardInterrupt:
            self._note(f"W&B: not waiting until everything is sent; {self._sync(run)}")
        except Exception as error:
            self._fail_to_finish(run, error)

    def _take(self, event: Event, run: wandb.Run) -> None:
        self._totals.add(event)
        if isinstance(event, Tick):
            run.log(tick_row(event))
        elif isinstance(event, Turn):
            run.log(turn_row(event))
        elif isinstance(event, (RunStart, ModelLoaded)):
            kept = {name: value for name, value in payload(event).items() if name not in ("config", "config_path")}
            run.config.update({event.type: scrub(kept)})
        elif isinstance(event, RunEnd):
            self._exit_code = event.exit_code
            self._end = {"total/seconds": event.seconds, "total/exit_code": event.exit_code}
            self._end |= {f"total/events/{kind}": count for kind, count in event.totals.items()}

    def _begin(self) -> wandb.Run | None:
        """A run, online or offline; None where W&B is off or not installed. The user is told in one line."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # offline means offline; and it outlasts a dead network
        wandb = _package()
        if wandb is None or _version(wandb) < OLDEST:
            found = "is not installed" if wandb is None else f"{wandb.__version__} is too old"
            self._lesser(f"W&B: the package wandb {found}", f"{EXTRA}; the run goes on without W&B")
            return None
        settings = wandb.setup(settings=wandb.Settings(**QUIET)).settings
        if settings.mode == "disabled":
            return None
        (self._folder / "wandb").mkdir(mode=0o700, parents=True, exist_ok=True)
        if settings.mode in ("offline", "dryrun"):
            return self._offline(wandb)
        if not _has_key(settings):
            return self._offline(wandb, "no API key (WANDB_API_KEY, or `wandb login`)")
        return self._online(wandb, settings.base_url)

    def _online(self, wandb: Any, url: str) -> wandb.Run:
        identity = secrets.token_hex(4)
        try:
            run = self._start(wandb, "online", id=identity)
        except Exception as error:
            self._abandoned = identity
            return self._offline(wandb, f"{url} cannot be used ({_reason(error)})")
        self._note(f"W&B: {run.url}")
        return run

    def _offline(self, wandb: Any, why: str | None = None) -> wandb.Run:
        run = self._start(wandb, "offline")
        if why is None:
            self._note(f"W&B: recording offline; {self._sync(run)}")
        else:
            self._lesser(f"W&B: {why}: recording offline", self._sync(run))
        return run

    def _start(self, wandb: Any, mode: str, **more: str) -> wandb.Run:
        settings = wandb.Settings(**QUIET, **PRIVATE, **BOUNDED, reinit="create_new")
        run = wandb.init(**self._about, **more, dir=str(self._folder), mode=mode, settings=settings)
        for axis in sorted(set(AXES.values())):
            run.define_metric(axis)
        for group, axis in AXES.items():
            run.define_metric(f"{group}/*", step_metric=axis)
        return run

    def _sync(self, run: wandb.Run) -> str:
        return f"`wandb sync {self._folder / 'wandb' / Path(run.dir).parent.name}` sends it"

    def _give_up(self, error: Exception) -> None:
        self.failure = error
        self._lesser(f"W&B records nothing from here on ({_reason(error)})", "the run and its event log go on")

    def _fail_to_finish(self, run: wandb.Run, error: Exception) -> None:
        """Past `run_end`, where a log takes no more events: a line alone. What the run left behind is cleared away."""
        if self.failure is None:
            self.failure = error
            self._note(f"W&B: not everything was sent ({_reason(error)}); {self._sync(run)}")
        with contextlib.suppress(Exception):
            import wandb

            wandb.teardown(exit_code=self._exit_code)

    def _lesser(self, message: str, hint: str) -> None:
        self._note(f"{message}; {hint}")
        if self._warn is not None:
            self._warn(Warning_(message=message, hint=hint))

    def _remove_abandoned(self) -> None:
        """The files of a run that did not get through: all it holds is in the offline run, and more."""
        if self._abandoned is not None:
            for path in (self._folder / "wandb").glob(f"run-*-{self._abandoned}"):
                shutil.rmtree(path, ignore_errors=True)


def _package() -> Any:
    """The module wandb, or None. A folder `wandb` of run files in the current folder is no such module."""
    try:
        import wandb
    except ModuleNotFoundError as error:
        if error.name == "wandb":
            return None
        raise
    return wandb if hasattr(wandb, "init") else None


def _version(wandb: Any) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", wandb.__version__)[:3])


def _has_key(settings: wandb.Settings) -> bool:
    """Whether wandb finds a key where it looks, so that it need not ask for one at the terminal."""
    if settings.api_key or settings.identity_token_file or os.environ.get("WANDB_API_KEY"):
        return True
    return has_kept_key(os.environ, settings.base_url)


def _reason(error: Exception) -> str:
    """One line of an error, without secrets, and without wandb's advice to wait for longer."""
    text = " ".join(scrub(str(error)).partition("Consider increasing the init_timeout")[0].split())
    text = type(error).__name__ if text in ("", "<no message>") else text
    return text if len(text) <= LONGEST_REASON else f"{text[: LONGEST_REASON - 3]}..."
