"""The panels of a run's picture: each draws one thing along the run, and says in words what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from megacontext.plotting.figures import BLUE, FAINT, HEALTHY, INK, TOLERABLE, VERMILION, tidy
from megacontext.telemetry.metrics import METRICS, Band, Metric
from tools.run_plots.series import (
    OWN_PARTS,
    PARTS,
    Course,
    Steps,
    band_words,
    level_steps,
    metric_points,
    metric_steps,
    part_bars,
    part_steps,
    parts,
    spaced,
    stairs,
    summarise,
)
from tools.run_plots.stacks import (
    draw_latency,
    draw_levels,
    draw_prompts,
    latency_alt,
    levels_alt,
    prompts_alt,
    short,
)

if TYPE_CHECKING:
    from megacontext.plotting.figures import Axes


class Panel(NamedTuple):
    """note: what is drawn, its unit, its bands. alt: what is to be seen, in a sentence.

    along: whether its horizontal axis is the run's.
    """

    name: str
    title: str
    note: str
    draw: Callable[[Axes, Course], None]
    alt: Callable[[Course], str]
    along: bool = True


class Look(NamedTuple):
    """How a metric is drawn. low, high: the least range that is shown."""

    name: str
    title: str
    meaning: str
    low: float
    high: float
    colour: str = BLUE


LOOKS = (
    Look("swap_rate", "swap rate", "edits of a tick / entries in view", 0.0, 0.6),
    Look("residency", "residency", "slots kept since the tick before", 0.6, 1.02),
    Look("utilization", "utilization", "slots in view / budget", 0.4, 1.05),
    Look("delta_nll", "ΔNLL", "nats a token above the reference", -0.1, 0.2, VERMILION),
)


def panels_of(course: Course) -> list[Panel]:
    """The panels that the log has numbers for."""
    found = [_metric_panel(course, look) for look in LOOKS if any(_known(course, look.name))]
    if stairs(level_steps(course)):
        found.insert(3, Panel("lod_counts", "levels of detail", "tokens of history shown at each level, stacked",
                              draw_levels, levels_alt))  # fmt: skip
    timed = bool(stairs(part_steps(course, parts(course))))
    if timed and set(parts(course)) & set(OWN_PARTS):
        found.append(_latency_panel("latency_own", "time of a tick: the memory's part", OWN_PARTS))
    if timed and "forward" in parts(course):
        found.append(_latency_panel("latency_ms", "time of a tick: with the model's passes", PARTS))
    if part_bars(course, parts(course)):
        found.append(Panel("latency_prompts", "time of a prompt's tick", "ms, by part; below: tokens of history there",
                           draw_prompts, prompts_alt, along=False))  # fmt: skip
    return found


def _known(course: Course, name: str) -> list[bool]:
    return [getattr(tick, name) is not None for tick in course.ticks]


# --- one metric with its bands ---


def _metric_panel(course: Course, look: Look) -> Panel:
    meaning = look.meaning
    if look.name == "delta_nll":
        named = sorted({tick.delta_nll_baseline for tick in course.ticks if tick.delta_nll_baseline})
        meaning += f" ({' and '.join(named)})" if named else ""
    note = f"{meaning};  {band_words(METRICS[look.name])}"
    return Panel(look.name, look.title, note, partial(_draw_metric, look), partial(_metric_alt, look))


def _draw_metric(look: Look, axes: Axes, course: Course) -> None:
    steps, points = metric_steps(course, look.name), metric_points(course, look.name)
    values = [value for *_, value in steps if value is not None] + [value for _, value in points]
    low, high = min([look.low, *values]), max([look.high, *values])
    room = 0.06 * (high - low)
    axes.set_ylim(low - room if low < look.low else low, high + room if high > look.high else high)
    _bands(axes, METRICS[look.name])
    _draw_text(axes, look, steps)
    for at, value in points:
        axes.plot(at, value, "D", color=look.colour, markersize=5.5, markeredgecolor="white", zorder=3, clip_on=False)


def _draw_text(axes: Axes, look: Look, steps: Steps) -> None:
    """A metric while text flows: as stairs, or, where it is only sampled, as dots at the ends of their lines."""
    if METRICS[look.name].fold == "sample":
        known = [(stop, value) for _, stop, value in steps if value is not None]
        at, values = [stop for stop, _ in known], [value for _, value in known]
        axes.plot(at, values, "o-", color=look.colour, markersize=3.5, linewidth=0.7)
        return
    for run in stairs(steps):
        axes.stairs(run.values, run.edges, baseline=None, color=look.colour, linewidth=1.8)


def _bands(axes: Axes, metric: Metric) -> None:
    """What is healthy and what is tolerable, as shading between the axes' limits."""
    if metric.healthy is None or metric.tolerable is None:
        return
    axes.axhspan(*_within(metric.tolerable, axes), color=TOLERABLE, linewidth=0, zorder=0)
    axes.axhspan(*_within(metric.healthy, axes), color=HEALTHY, linewidth=0, zorder=0.1)


def _within(band: Band, axes: Axes) -> tuple[float, float]:
    low, high = axes.get_ylim()
    return low if band.low is None else max(band.low, low), high if band.high is None else min(band.high, high)


def _metric_alt(look: Look, course: Course) -> str:
    found, points = summarise(course, look.name), [value for _, value in metric_points(course, look.name)]
    words = [f"{look.title} along the run"]
    if found is not None:
        words.append(f"median {found.median:.3g}, from {found.low:.3g} to {found.high:.3g}")
    if found is not None and found.healthy is not None:
        words.append(f"healthy in {100 * found.healthy:.0f} % of ticks")
    if points:
        words.append(f"where prompts ended {min(points):.3g} to {max(points):.3g}")
    return "; ".join([*words, band_words(METRICS[look.name])]) + "."


def _latency_panel(name: str, title: str, wanted: Sequence[str]) -> Panel:
    note = "ms a tick, by part"
    return Panel(name, title, note, partial(draw_latency, wanted), partial(latency_alt, title, wanted))


# --- what all panels share ---


def dress(axes: Axes, panel: Panel, course: Course) -> None:
    """Title, axes, and the ends of turns with their numbers."""
    tidy(axes)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=19)
    note = axes.text(0, 1.04, panel.note, transform=axes.transAxes, fontsize=7.5, color=FAINT)
    note.set_in_layout(False)
    if not panel.along:
        return
    end = max(course.end, course.begin + 1)
    axes.set_xlim(course.begin, end)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    room = spaced([turn.at for turn in course.turns], 0.025 * (end - course.begin))
    for (at, turn), fits in zip(course.turns, room, strict=True):
        axes.axvline(at, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1.5)
        if fits and panel.name in NUMBERED:
            axes.annotate(str(turn.turn), (at, 1), (-2, -2), xycoords=("data", "axes fraction"), va="top", ha="right",
                          textcoords="offset points", fontsize=7, color=FAINT)  # fmt: skip


NUMBERED = tuple(look.name for look in LOOKS)  # a stack has its legend where the numbers would stand
