"""A run as one page of HTML that needs nothing else: facts, panels as inline SVG, bands, turns. Light and dark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from megacontext.plotting.page import document, table, text
from megacontext.telemetry.events import Error, MemoryOpened, ModelLoaded, RunEnd, Turn, Warning_
from megacontext.telemetry.metrics import METRICS
from tools.event_log import EventLog
from tools.run_plots.panels import panels_of
from tools.run_plots.picture import headline, panel_svg, subtitle
from tools.run_plots.series import Course, band_words, summarise

JUDGED = ("swap_rate", "residency", "utilization", "mean_residency_ticks", "delta_nll")
TURN_COLUMNS = (
    "turn", "name", "stop", "prompt_tokens", "generated_tokens", "history_tokens", "ttft_ms", "tokens_per_second",
    "itl_p50_ms", "itl_p95_ms", "swap_rate", "residency", "utilization", "delta_nll", "notes",
)  # fmt: skip
STYLE = """
.key { margin-bottom: 1rem; }
.key span::before { content: ""; display: inline-block; width: 1.4em; height: .8em; margin: 0 .4em 0 1em;
  background: var(--fill); } .key span:first-child::before { margin-left: 0; }
"""


def page(log: EventLog, course: Course) -> str:
    """The whole page."""
    parts = [
        f"<h1>{text(headline(log))}</h1>",
        f'<p class="faint">{text(subtitle(log))}</p>',
        *_alarms(log),
        "<h2>Along the run</h2>",
        _key(),
        f'<div class="panels">{"".join(_figures(course))}</div>',
        "<h2>Against the bands</h2>",
        table(BAND_HEADS, _band_rows(course), numbers=range(3, 8)),
        "<h2>Turns</h2>",
        _turns(log),
        "<h2>The run</h2>",
        table(("fact", "value"), _facts(log)),
        f"<details><summary>Its memory's settings</summary>{table(('setting', 'value'), _settings(log))}</details>",
    ]
    return document(headline(log), parts, style=STYLE)


def _key() -> str:
    healthy = '<span style="--fill: var(--healthy)">healthy</span>'
    tolerable = '<span style="--fill: var(--tolerable)">tolerable</span>'
    rest = "A diamond: a prompt ended, with few pages in view on purpose. A dashed line: a turn ended."
    return f'<p class="faint key">{healthy}{tolerable}. {rest}</p>'


def _figures(course: Course) -> Iterable[str]:
    for panel in panels_of(course):
        caption = f"<h3>{text(panel.title)}</h3><p class='faint'>{text(panel.note)}</p>"
        yield f"<figure><figcaption>{caption}</figcaption>{panel_svg(panel, course)}</figure>\n"


def _alarms(log: EventLog) -> list[str]:
    """What went wrong, before anything else."""
    words = ["The run was interrupted, or still goes on: its log has no run_end."] if log.interrupted else []
    words += ["The log's last line was cut off; it is left out."] if log.torn else []
    words += [f"{error.kind}: {error.message}" for error in log.of(Error)]
    words += [f"warning: {found.message}" + (f" ({found.hint})" if found.hint else "") for found in log.of(Warning_)]
    return [f'<p class="alarm">{text(word)}</p>' for word in words]


BAND_HEADS = ("metric", "meaning", "bands", "median", "lowest", "highest", "healthy", "investigate")


def _band_rows(course: Course) -> list[list[Any]]:
    """Each judged metric over the text that flowed, prompts' ends left out: they are sparse on purpose."""
    rows = []
    for name in JUDGED:
        found, metric = summarise(course, name), METRICS[name]
        if found is None:
            continue
        shares = ["" if share is None else f"{100 * share:.0f} % of ticks" for share in found[-2:]]
        meaning = metric.meaning if metric.unit == "share" else f"{metric.meaning}, {metric.unit}"
        rows.append([name, meaning, band_words(metric), found.median, found.low, found.high, *shares])
    return rows


def _turns(log: EventLog) -> str:
    turns = log.of(Turn)
    if not turns:
        return '<p class="faint">No turn came to its end.</p>'
    columns = [name for name in TURN_COLUMNS if any(getattr(turn, name) is not None for turn in turns)]
    rows = [[getattr(turn, name) for name in columns] for turn in turns]
    numbers = [i for i, name in enumerate(columns) if name not in ("name", "stop", "notes")]
    return table([_head(name) for name in columns], rows, numbers=numbers)


def _head(name: str) -> str:
    unit = METRICS[name].unit if name in METRICS else ""
    plain = name.removesuffix("_ms").replace("_", " ")
    return plain if unit in ("", "share", "tokens", "tokens/s", "count", "name") else f"{plain}, {unit}"


def _facts(log: EventLog) -> list[tuple[str, Any]]:
    start, counts = log.start, Counter(event.type for event in log.events)
    facts: list[tuple[str, Any]] = [("program", start.program), ("log", log.path.name), ("begun", log.times[0])]
    facts += [("ended", f"exit code {end.exit_code} after {end.seconds:,.1f} s") for end in log.of(RunEnd)]
    facts += [("model", f"{loaded.name} ({loaded.fingerprint})") for loaded in log.of(ModelLoaded)]
    facts += [(f"model: {k}", v) for loaded in log.of(ModelLoaded) for k, v in loaded.summary.items() if k in MODEL]
    facts += [("session", memory.session or "none: it leaves no trace") for memory in log.of(MemoryOpened)]
    facts += [(f"version of {name}", value) for name, value in start.versions.items()]
    return [*facts, ("events", ", ".join(f"{count:,} {kind}" for kind, count in counts.items()))]


def _settings(log: EventLog) -> list[tuple[str, Any]]:
    return [(f"memory.{name}", value) for name, value in (log.start.config.get("memory") or {}).items()]


MODEL = ("family", "parameters", "dtype", "device", "max_position", "tokenizer", "seeded")
