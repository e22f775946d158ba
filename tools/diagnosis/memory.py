"""How the memory did in a run: its ticks against the bands of the table of metrics, its edits against each other.

What is healthy depends on what the memory was doing, so every tick has a phase:

    prompt   a prompt has just ended: few and sharp pages stay in view, by design. No band applies.
    answer   from there to the turn's end the view is held. Everything applies.
    text     text flows in. The view follows it: up to as many new blocks a tick as the measured default of max_edits
             are no sign of trouble, and after a prompt the view needs some text before it can be full again.

Bands come from `telemetry/metrics.py`, allowances from `config.py`; only the window of an oscillation stands here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from megacontext.config import MemoryConfig
from megacontext.telemetry.metrics import METRICS
from tools.diagnosis.finding import Finding, ok

Record = dict[str, Any]
OSCILLATION = 5  # ticks within which a span that comes, goes and comes again oscillates
REPEATED = 3  # collapses of one span, each within that many ticks of the one before
ROUNDED = 1e-4  # shares in a log have four digits


@dataclass(frozen=True)
class Tick:
    """One line of ticks, with what is needed to judge it.

    bounded: whether history exceeded the budget before it began; the tick where it does first makes room for much.
    floor: least residency that following the text explains, None in another phase. filled: whether enough text has come
    since the last prompt for the view to be full again.
    """

    record: Record
    phase: str
    bounded: bool
    floor: float | None
    filled: bool

    def outside(self, name: str) -> bool:
        """Whether a metric was measured, and lies where the table says: investigate."""
        value = self.record.get(name)
        return value is not None and METRICS[name].judge(value) == "investigate"


def examine(records: Sequence[Record]) -> Iterator[Finding]:
    """All checks of this family, on the valid events of one log, in order."""
    settings = next((r.get("config", {}).get("memory") or {} for r in records if r["type"] == "run_start"), {})
    ticks = list(walk(records, settings))
    if not ticks:
        yield ok("memory", "no tick: nothing had to leave the view")
        return
    yield _residency(ticks)
    yield _swap_rate(ticks, settings)
    yield from _edits(records, settings)
    yield from _utilization(ticks, settings)
    yield from _delta_nll(ticks, settings)


def walk(records: Sequence[Record], settings: Record) -> Iterator[Tick]:
    """The ticks of a log, each with its phase."""
    answering, last, prompt = False, None, None
    for record in records:
        if record["type"] == "turn":
            answering = False
        if record["type"] == "memory_opened":  # another conversation: nothing said of the one before counts here
            answering, last, prompt = False, None, None
        if record["type"] != "tick":
            continue
        at_prompt = _by_prompt(record)
        phase = "prompt" if at_prompt else "answer" if answering else "text"
        before = _history_before(record, last)
        bounded = before is None or before > (record.get("working_budget") or 0)
        floor = _floor(record, last, settings) if phase == "text" else None
        yield Tick(record, phase, bounded, floor, before is None or _filled(prompt, before))
        answering, last = answering or at_prompt, record
        prompt = record if at_prompt else prompt


def _history_before(record: Record, last: Record | None) -> int | None:
    """Tokens. Where a log begins with a sum, nobody knows when that began: half of history is a careful guess."""
    history: int | None = record.get("history_tokens")
    if last is not None and last.get("history_tokens") is not None:
        return int(last["history_tokens"])
    return history if history is None or record.get("ticks", 1) == 1 else history // 2


def _floor(record: Record, last: Record | None, settings: Record) -> float:
    """Share of the view that stays if as many blocks come in a tick as the measured default allows."""
    slots = [r["active_slots"] for r in (record, last) if r and r.get("active_slots")]
    newcomers = min(MemoryConfig().max_edits, _far_places(record, settings))
    return 1 - newcomers * _setting(settings, "block") / min(slots) - ROUNDED if slots else 1.0


def _far_places(record: Record, settings: Record) -> int:
    """Blocks that fit into the budget beside the protected ends and the open tail."""
    block, budget = _setting(settings, "block"), record.get("working_budget") or MemoryConfig().budget
    ends = _setting(settings, "recent_tokens") + (_setting(settings, "protect_first") + 1) * block
    return max(budget - ends, 0) // block


def _setting(settings: Record, name: str) -> int:
    """Of the run, else the default."""
    value = settings.get(name)
    return int(getattr(MemoryConfig(), name) if value is None else value)


def _filled(prompt: Record | None, history: int) -> bool:
    """Whether what a prompt left in view, and all text since, would reach the band of utilization."""
    if prompt is None or prompt.get("active_slots") is None or not prompt.get("working_budget"):
        return True
    since = history - (prompt.get("history_tokens") or 0)
    tolerable = METRICS["utilization"].tolerable
    return tolerable is None or (prompt["active_slots"] + since) / prompt["working_budget"] in tolerable


# --- one finding a metric ---


def _residency(ticks: list[Tick]) -> Finding:
    judged = [t for t in ticks if t.phase != "prompt"]
    wrong = [t for t in judged if t.outside("residency")]
    told = [t for t in wrong if t.floor is None or t.record["residency"] < t.floor]
    aside = "; below the band only while text is read, where the view follows it" if wrong else ""
    remedy = "memory.hysteresis: 0.1 and memory.cooldown: 4 keep what is in view for longer"
    return _judged("residency", judged, told, min, remedy, aside)


def _swap_rate(ticks: list[Tick], settings: Record) -> Finding:
    judged = [t for t in ticks if t.phase != "prompt" and t.bounded]
    edits = _setting(settings, "max_edits")
    remedy = f"memory.max_edits: {max(edits // 2, 1)} (it is {edits}), or a larger memory.budget"
    return _judged("swap_rate", judged, [t for t in judged if t.outside("swap_rate")], max, remedy)


def _utilization(ticks: list[Tick], settings: Record) -> Iterator[Finding]:
    """Before history exceeds the budget there is nothing to fill the view with; more than full it must never be."""
    over = [t for t in ticks if (t.record.get("utilization") or 0) > 1]
    if over:
        remedy = "the budget did not hold, which is a defect: send log and configuration with a report"
        yield replace(_judged("utilization", ticks, over, max, remedy), state="fail")
        return
    judged = [t for t in ticks if t.phase != "prompt" and t.filled and t.bounded]
    far = _setting(settings, "far_blocks")
    remedy = f"memory.far_blocks: {2 * far or 8} (it is {far}), or a smaller memory.budget"
    yield _judged("utilization", judged, [t for t in judged if t.outside("utilization")], min, remedy)


def _delta_nll(ticks: list[Tick], settings: Record) -> Iterator[Finding]:
    """Only where it was measured. At a prompt's end the newest tokens are scored under a view made for the answer."""
    judged = [t for t in ticks if t.phase != "prompt" and t.record.get("delta_nll") is not None]
    if not judged:
        return
    budget = _setting(settings, "budget")
    remedy = f"memory.budget: {2 * budget} (it is {budget}); memory.mode: exact tells what pages computed long ago cost"
    yield _judged("delta_nll", judged, [t for t in judged if t.outside("delta_nll")], max, remedy)


def _judged(name: str, judged: list[Tick], wrong: list[Tick], worst: Any, remedy: str, aside: str = "") -> Finding:
    """The worst tick of those outside the band, or the range of all that were judged."""
    known = [t.record[name] for t in judged if t.record.get(name) is not None]
    unit, band = METRICS[name].unit, str(METRICS[name].tolerable)
    if not wrong:
        span = f"{min(known):.3g} to {max(known):.3g} {unit}" if known else "nothing to judge"
        return Finding("ok", name, f"{span}{aside}", band=band)
    record = worst((t.record for t in wrong), key=lambda record: record[name])
    what = f"{record[name]:.3g} {unit}, should be {band}; {len(wrong)} of {len(known)} lines of ticks are outside"
    return Finding("warn", name, what, remedy, record["seq"], record["tick"], record[name], band)


# --- edits ---


def _edits(records: Sequence[Record], settings: Record) -> Iterator[Finding]:
    """What comes and goes and comes again. A prompt's end folds and opens on purpose; it, a turn and another
    conversation begin anew.
    """
    by_span: dict[tuple[int, int, int], list[Record]] = defaultdict(list)
    part = 0
    for record in records:
        if record["type"] in ("turn", "memory_opened") or _by_prompt(record):
            part += record["type"] in ("turn", "memory_opened", "tick")
        elif record["type"] in ("expand", "collapse"):
            by_span[part, record["start"], record["end"]].append(record)
    cooldown = max(_setting(settings, "cooldown"), OSCILLATION) + 1
    remedy = (
        f"memory.cooldown: {cooldown} leaves an edit alone for that many ticks; /why in the chat tells a span's story"
    )
    swings = [found for edits in by_span.values() if (found := _swing(edits))]
    between = f"came, went and came again within {OSCILLATION} ticks"
    yield _about_spans("oscillation", swings, between, remedy, _within_sums(records))
    chains = [found for edits in by_span.values() if (found := _chain(edits))]
    remedy = f"memory.hysteresis: 0.1, or memory.cooldown: {cooldown}; a larger memory.budget leaves it its place"
    yield _about_spans("collapses", chains, f"collapsed {REPEATED} times, each soon after the last", remedy)


def _about_spans(check: str, found: list[Record], what: str, remedy: str, aside: str = "") -> Finding:
    if not found:
        return ok(check, f"no span {what}{aside}")
    first = min(found, key=lambda edit: edit["seq"])
    spans = len({(edit["start"], edit["end"]) for edit in found})
    said = f"{spans} span{'s' if spans > 1 else ''} {what}; the first: [{first['start']}, {first['end']}){aside}"
    return Finding("warn", check, said, remedy, first["seq"], first["tick"], spans)


def _within_sums(records: Sequence[Record]) -> str:
    """A sum of ticks tells what its edits come to, so oscillation inside it has no place in a log: only its amount.

    Of the expansions that a sum counts, each block that was opened or is transient accounts for one.
    """
    expansions = repeats = opened = 0
    for record in records:
        opened += record["type"] == "expand"
        if record["type"] != "tick":
            continue
        count = record.get("num_expand") or 0
        expansions += count
        repeats += max(count - opened - len(record.get("transient") or ()), 0)
        opened = 0
    if not repeats:
        return ""
    return f"; unseen, within sums of ticks, up to {repeats} of {expansions} expansions opened a block once more"


def _swing(edits: list[Record]) -> Record | None:
    """The last edit of the first expand, collapse, expand of one span in too short a time."""
    for three in zip(edits, edits[1:], edits[2:], strict=False):
        kinds = [edit["type"] for edit in three]
        if kinds == ["expand", "collapse", "expand"] and three[2]["tick"] - three[0]["tick"] <= OSCILLATION:
            return three[2]
    return None


def _chain(edits: list[Record]) -> Record | None:
    """The collapse that made it too many, one soon after the other."""
    folds = [edit for edit in edits if edit["type"] == "collapse"]
    length = 0
    for last, edit in zip([None, *folds], folds, strict=False):
        length = length + 1 if last is not None and edit["tick"] - last["tick"] <= OSCILLATION else 1
        if length >= REPEATED:
            return edit
    return None


def _by_prompt(record: Record) -> bool:
    return (record.get("reason") or "").startswith("prompt")
