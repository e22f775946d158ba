"""The panels of a run's picture: each draws one thing along the run, and says in words what it shows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from megacontext.telemetry.metrics import METRICS, Band, Metric
from tools.plotting import BLUE, FAINT, GREEN, GREY, HEALTHY, INK, LEVELS, ORANGE, PINK, TOLERABLE, VERMILION, tidy
from tools.run_plots.series import (
    OWN_PARTS,
    PARTS,
    Course,
    Mark,
    Steps,
    band_words,
    level_steps,
    levels,
    metric_points,
    metric_steps,
    part_bars,
    part_steps,
    parts,
    spaced,
    stairs,
    summarise,
)

if TYPE_CHECKING:
    from tools.plotting import Axes

PART_COLOURS = {"score": BLUE, "plan": ORANGE, "page": GREEN, "assemble": PINK, "forward": GREY}
HEADROOM = 1.2  # of the largest value, for the legend above a stack
MOST_BARS, LEAST_BARS = 40, 6


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
    if any(values for *_, values in level_steps(course)):
        found.insert(3, Panel("lod_counts", "levels of detail", "tokens of history shown at each level, stacked",
                              _draw_levels, _levels_alt))  # fmt: skip
    if course.steps and parts(course):
        found.append(_latency_panel("latency_own", "time of a tick: the memory's part", OWN_PARTS))
    if course.steps and "forward" in parts(course):
        found.append(_latency_panel("latency_ms", "time of a tick: with the model's passes", PARTS))
    if part_bars(course, parts(course)):
        found.append(Panel("latency_prompts", "time of a prompt's tick", "ms, by part; below: tokens of history there",
                           _draw_prompts, _prompts_alt, along=False))  # fmt: skip
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
    for run in stairs(steps):
        axes.stairs(run.values, run.edges, baseline=None, color=look.colour, linewidth=1.8)
    for at, value in points:
        axes.plot(at, value, "D", color=look.colour, markersize=5.5, markeredgecolor="white", zorder=3, clip_on=False)


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


# --- stacks ---


def _draw_levels(axes: Axes, course: Course) -> None:
    known = levels(course)
    names = ["LOD0, exact" if level == 0 else f"LOD{level}" for level in known]
    _stack(axes, level_steps(course), names, [LEVELS[min(level, len(LEVELS) - 1)] for level in known])
    axes.yaxis.set_major_formatter(lambda value, _: short(value))


def _latency_panel(name: str, title: str, wanted: Sequence[str]) -> Panel:
    note = "ms, median of a line's ticks, by part"
    return Panel(name, title, note, partial(_draw_latency, wanted), partial(_latency_alt, title, wanted))


def _draw_latency(wanted: Sequence[str], axes: Axes, course: Course) -> None:
    names = [part for part in parts(course) if part in wanted]
    _stack(axes, part_steps(course, names), names, [PART_COLOURS[name] for name in names])


def _stack(axes: Axes, steps: Steps, names: Sequence[str], colours: Sequence[str]) -> None:
    """The first of `names` at the bottom."""
    for number, run in enumerate(stairs(steps)):
        base = [0.0] * len(run.values)
        for index, colour in enumerate(colours):
            top = [low + values[index] for low, values in zip(base, run.values, strict=True)]
            label = "_" if number else names[index]
            axes.stairs(top, run.edges, baseline=base, fill=True, color=colour, linewidth=0, label=label)
            base = top
    highest = max((sum(values) for *_, values in steps if values is not None), default=0.0)
    axes.set_ylim(0, highest * HEADROOM or 1)
    _key(axes, len(names))


def _draw_prompts(axes: Axes, course: Course) -> None:
    names = parts(course)
    bars = part_bars(course, names)[-MOST_BARS:]
    places, base = list(range(len(bars))), [0.0] * len(bars)
    for index, name in enumerate(names):
        heights = [values[index] for _, values in bars]
        axes.bar(places, heights, bottom=base, width=0.62, color=PART_COLOURS[name], label=name)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    if len(bars) <= 8:
        for place, total in zip(places, base, strict=True):
            axes.annotate(f"{total:.0f}", (place, total), (0, 2), textcoords="offset points", ha="center", fontsize=7,
                          color=INK)  # fmt: skip
    axes.set_ylim(0, max(base) * (HEADROOM + 0.1) or 1)
    axes.set_xlim(-0.6, max(len(bars), LEAST_BARS) - 0.4)
    shown = spaced(places, len(bars) / 9)
    axes.set_xticks(places, [_where(mark) if fits else "" for (mark, _), fits in zip(bars, shown, strict=True)])
    _key(axes, len(names))


def _where(mark: Mark) -> str:
    """Where in history a prompt ended, whatever the axis."""
    return "" if mark.tick.history_tokens is None else f"{mark.tick.history_tokens:,}"


def _key(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="upper left", ncols=columns, frameon=False, fontsize=7.5, labelcolor=INK, handlelength=1.0,
        handletextpad=0.4, columnspacing=1.0, borderaxespad=0.2,
    )  # fmt: skip


def _levels_alt(course: Course) -> str:
    values = [step[2] for step in level_steps(course) if step[2] is not None][-1]
    shown = ", ".join(f"{int(n):,} at LOD{level}" for level, n in zip(levels(course), values, strict=True))
    return f"Tokens of history shown at each level of detail, stacked; at the end of the text that flowed {shown}."


def _latency_alt(title: str, wanted: Sequence[str], course: Course) -> str:
    names = [part for part in parts(course) if part in wanted]
    lines = [values for *_, values in part_steps(course, names) if values is not None]
    middle = [sorted(values[i] for values in lines)[len(lines) // 2] for i in range(len(names))]
    typical = ", ".join(f"{name} {value:.2g} ms" for name, value in zip(names, middle, strict=True))
    return f"{title[0].upper()}{title[1:]}, while text flows, stacked; typical: {typical}."


def _prompts_alt(course: Course) -> str:
    bars = part_bars(course, parts(course))[-MOST_BARS:]
    totals = ", ".join(f"{sum(values):.0f} ms at {_where(mark)}" for mark, values in bars)
    return f"Time of the tick at each prompt's end, stacked by part: {totals}."


# --- what all panels share ---


def dress(axes: Axes, panel: Panel, course: Course) -> None:
    """Title, axes, and the ends of turns with their numbers."""
    tidy(axes)
    axes.set_title(panel.title, loc="left", fontsize=10, fontweight="bold", color=INK, pad=19)
    note = axes.text(0, 1.04, panel.note, transform=axes.transAxes, fontsize=7.5, color=FAINT)
    note.set_in_layout(False)
    if not panel.along:
        return
    end = max(course.end, 1)
    axes.set_xlim(0, end)
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    room = spaced([turn.at for turn in course.turns], 0.025 * end)
    for (at, turn), fits in zip(course.turns, room, strict=True):
        axes.axvline(at, color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=1.5)
        if fits and panel.name in NUMBERED:
            axes.annotate(str(turn.turn), (at, 1), (-2, -2), xycoords=("data", "axes fraction"), va="top", ha="right",
                          textcoords="offset points", fontsize=7, color=FAINT)  # fmt: skip


NUMBERED = tuple(look.name for look in LOOKS)  # a stack has its legend where the numbers would stand


def short(value: float) -> str:
    """`9.5k`."""
    return f"{value / 1000:.4g}k" if value >= 1000 else f"{value:g}"
