"""The event log's vocabulary: one dataclass per type of event, one schema for all of them.

An event is cheap to make (a frozen, slotted dataclass, no validation): the memory makes some on every tick. The sink
adds the envelope: schema version `v`, gapless `seq`, `time`, `run`. A value that was not computed is None here and
absent in the log, never zero. Names and units are those of `metrics.py`.

Knows nothing about files (`sinks.py`) or about checking what was read (`schema.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What all events are. `type` is the word in the log."""

    type: ClassVar[str] = "event"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(Event):
    """A program began: what ran, with which settings (scrubbed of secrets) and versions."""

    type: ClassVar[str] = "run_start"
    program: str
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    config_path: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLoaded(Event):
    """The model is ready. `summary`: what the loader tells of it (family, layers, dtype, ...)."""

    type: ClassVar[str] = "model_loaded"
    name: str
    fingerprint: str
    load_ms: float
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryOpened(Event):
    """A conversation's memory is open. Counts tell what its repair did: tokens recovered, bytes cut off, moved away."""

    type: ClassVar[str] = "memory_opened"
    cache: str
    working_budget: int | None = None
    session: str | None = None
    recovered_tokens: int = 0
    truncated_bytes: int = 0
    quarantined: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick(Event):
    """One refocus, or up to 32 consecutive ones summed (`ticks`): counts added, shares and times averaged.

    `tick` is the index of the last one summed. latency_ms: wall time by part (score, plan, page, assemble, forward)
    and their sum, total; a sum has the mean of each, and in latency_p95_ms the 95th percentile of each by itself.
    transient: where blocks start that changed and changed back within it.
    """

    type: ClassVar[str] = "tick"
    tick: int
    ticks: int = 1
    reason: str | None = None
    history_tokens: int | None = None
    working_budget: int | None = None
    active_slots: int | None = None
    utilization: float | None = None
    swap_rate: float | None = None
    residency: float | None = None
    mean_residency_ticks: float | None = None
    num_expand: int | None = None
    num_collapse: int | None = None
    refused: int | None = None
    faults: int | None = None
    recomputed_blocks: int | None = None
    lod_counts: dict[int, int] | None = None
    delta_nll: float | None = None
    delta_nll_baseline: str | None = None
    delta_nll_ms: float | None = None
    latency_ms: dict[str, float] | None = None
    latency_p95_ms: dict[str, float] | None = None
    baseline_ms: float | None = None
    resident_bytes: int | None = None
    disk_bytes: int | None = None
    pages_moved: int | None = None
    bytes_moved: int | None = None
    transient: list[int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit(Event):
    """One edit of the view, or what several of one span within a sum of ticks come to.

    [start, end) in tokens; levels before and after; why the allocator chose it.
    """

    tick: int
    start: int
    end: int
    from_level: int
    to_level: int
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expand(_Edit):
    """A gist gave way to finer entries."""

    type: ClassVar[str] = "expand"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collapse(_Edit):
    """Entries were folded into a coarser one."""

    type: ClassVar[str] = "collapse"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn(Event):
    """One exchange, or a document that was read (generated_tokens 0). stop: stop, max_tokens, interrupted, read.

    From working_budget to delta_nll_baseline: what the turn's ticks come to (latency_ms: of its mean tick), absent if
    it had none. notes: which setting made it.
    """

    type: ClassVar[str] = "turn"
    turn: int
    prompt_tokens: int
    generated_tokens: int
    history_tokens: int
    stop: str
    name: str | None = None
    ttft_ms: float | None = None
    tokens_per_second: float | None = None
    itl_p50_ms: float | None = None
    itl_p95_ms: float | None = None
    resident_bytes: int | None = None
    working_budget: int | None = None
    active_slots: int | None = None
    utilization: float | None = None
    swap_rate: float | None = None
    residency: float | None = None
    num_expand: int | None = None
    num_collapse: int | None = None
    latency_ms: dict[str, float] | None = None
    delta_nll: float | None = None
    delta_nll_baseline: str | None = None
    notes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning_(Event):
    """Something went on in a lesser way. `hint`: what would help."""

    type: ClassVar[str] = "warning"
    message: str
    hint: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Error(Event):
    """Something failed. The traceback always stands here, whatever the terminal was told."""

    type: ClassVar[str] = "error"
    kind: str
    message: str
    traceback: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd(Event):
    """The program ended. A log without it was interrupted. `totals`: events by type."""

    type: ClassVar[str] = "run_end"
    exit_code: int
    seconds: float
    totals: dict[str, int] = field(default_factory=dict)


EVENT_TYPES: dict[str, type[Event]] = {
    cls.type: cls
    for cls in (RunStart, ModelLoaded, MemoryOpened, Tick, Expand, Collapse, Turn, Warning_, Error, RunEnd)
}
