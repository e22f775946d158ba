"""What a check found: a state, a sentence, and a remedy. Knows nothing of how it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "warn", "fail"]
BOOTSTRAP = "python tools/bootstrap_env.py"


@dataclass(frozen=True)
class Finding:
    """state: ok, warn (works, in a lesser way), fail (does not work). remedy: a setting or a command, if not ok.

    seq, tick: where in a log. value, band: what was measured, and what the table of metrics says it should be.
    """

    state: State
    check: str
    what: str
    remedy: str = ""
    seq: int | None = None
    tick: int | None = None
    value: float | None = None
    band: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Without what is not known."""
        return {name: value for name, value in asdict(self).items() if value not in (None, "")}

    @property
    def place(self) -> str:
        """' (tick 12, seq 30)', or nothing."""
        parts = [f"tick {self.tick}"] if self.tick is not None else []
        parts += [f"seq {self.seq}"] if self.seq is not None else []
        return f" ({', '.join(parts)})" if parts else ""


def ok(check: str, what: str) -> Finding:
    return Finding("ok", check, what)


def warn(check: str, what: str, remedy: str) -> Finding:
    return Finding("warn", check, what, remedy)


def fail(check: str, what: str, remedy: str) -> Finding:
    return Finding("fail", check, what, remedy)
