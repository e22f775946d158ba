"""The stacked panels of a run's picture: levels of detail, and the parts of a tick's time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from megacontext.plotting.figures import BLUE, GREEN, GREY, INK, LEVELS, ORANGE, PINK
from tools.run_plots.series import (
    Course,
    Mark,
    Steps,
    level_steps,
    levels,
    part_bars,
    part_steps,
    parts,
    spaced,
    stairs,
)

if TYPE_CHECKING:
    from megacontext.plotting.figures import Axes

PART_COLOURS = {"score": BLUE, "plan": ORANGE, "page": GREEN, "assemble": PINK, "forward": GREY}
OUTLIER = 3  # times the usual: what is higher is cut off, and its height written beside it
CUT, HEADROOM = 1.04, 1.22  # of the axis' highest value: where it is cut off; room for the legend
MOST_BARS, LEAST_BARS = 40, 6


def draw_levels(axes: Axes, course: Course) -> None:
    known = levels(course)
    names = ["LOD0, exact" if level == 0 else f"LOD{level}" for level in known]
    _stack(axes, course, level_steps(course), names, [LEVELS[min(level, len(LEVELS) - 1)] for level in known])
    axes.yaxis.set_major_formatter(lambda value, _: short(value))


def draw_latency(wanted: Sequence[str], axes: Axes, course: Course) -> None:
    names = [part for part in parts(course) if part in wanted]
    _stack(axes, course, part_steps(course, names), names, [PART_COLOURS[name] for name in names])


def _stack(axes: Axes, course: Course, steps: Steps, names: Sequence[str], colours: Sequence[str]) -> None:
    """The first of `names` at the bottom. What towers over the rest is cut off below the legend."""
    sums = [(start, stop, sum(values)) for start, stop, values in steps if values is not None]
    top = ceiling([total for *_, total in sums])
    for number, run in enumerate(stairs(steps)):
        base = [0.0] * len(run.values)
        for index, colour in enumerate(colours):
            heights = [min(low + values[index], CUT * top) for low, values in zip(base, run.values, strict=True)]
            label = "_" if number else names[index]
            axes.stairs(heights, run.edges, baseline=base, fill=True, color=colour, linewidth=0, label=label)
            base = heights
    axes.set_ylim(0, top * HEADROOM or 1)
    _name_heights(axes, [(stop, total) for _, stop, total in sums if total > CUT * top], course, CUT * top)
    _key(axes, len(names))


def _name_heights(axes: Axes, cut: Sequence[tuple[float, float]], course: Course, at: float) -> None:
    """The heights of what was cut off at `at`; of neighbours, the highest."""
    named: list[float] = []
    width = course.end - course.begin
    for place, height in sorted(cut, key=lambda entry: -entry[1]):
        if all(abs(place - other) > 0.12 * width for other in named):
            named.append(place)
            right = place > course.begin + 0.85 * width
            axes.annotate(f"↑ {height:,.0f}", (place, at), (-3 if right else 3, 0), textcoords="offset points",
                          va="top", ha="right" if right else "left", fontsize=7, color=INK)  # fmt: skip


def ceiling(totals: Sequence[float]) -> float:
    """What a stack's axis must reach: the highest, unless it towers over all but a tenth of them."""
    usual = sorted(totals)[int(0.9 * (len(totals) - 1))] if totals else 0.0
    highest = max(totals, default=0.0)
    return highest if highest <= OUTLIER * usual else usual * 1.5


def draw_prompts(axes: Axes, course: Course) -> None:
    names = parts(course)
    bars = part_bars(course, names)[-MOST_BARS:]
    places, base = list(range(len(bars))), [0.0] * len(bars)
    for index, name in enumerate(names):
        heights = [values[index] for _, values in bars]
        axes.bar(places, heights, bottom=base, width=0.62, color=PART_COLOURS[name], label=name)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    if len(bars) <= 8:
        for place, total in zip(places, base, strict=True):
            height = f"{total:.{int(total < 10)}f}"
            axes.annotate(
                height, (place, total), (0, 2), textcoords="offset points", ha="center", fontsize=7, color=INK
            )
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


def levels_alt(course: Course) -> str:
    values = [step[2] for step in level_steps(course) if step[2] is not None][-1]
    shown = ", ".join(f"{int(n):,} at LOD{level}" for level, n in zip(levels(course), values, strict=True))
    return f"Tokens of history shown at each level of detail, stacked; at the end of the text that flowed {shown}."


def latency_alt(title: str, wanted: Sequence[str], course: Course) -> str:
    names = [part for part in parts(course) if part in wanted]
    lines = [values for *_, values in part_steps(course, names) if values is not None]
    middle = [sorted(values[i] for values in lines)[len(lines) // 2] for i in range(len(names))]
    typical = ", ".join(f"{name} {value:.2g} ms" for name, value in zip(names, middle, strict=True))
    return f"{title[0].upper()}{title[1:]}, while text flows, stacked; typical: {typical}."


def prompts_alt(course: Course) -> str:
    bars = part_bars(course, parts(course))[-MOST_BARS:]
    totals = ", ".join(f"{sum(values):.0f} ms at {_where(mark)}" for mark, values in bars)
    return f"Time of the tick at each prompt's end, stacked by part: {totals}."


def short(value: float) -> str:
    """`9.5k`."""
    return f"{value / 1000:.5g}k" if value >= 1000 else f"{value:g}"
