"""The pictures of a report: quality against bytes, recall against history, milliseconds against history.

Each is made once as a figure; the files and the page take it from there. Raises MissingAsset without matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from megacontext.evaluation.comparison.rows import Row
from megacontext.evaluation.reporting.blocks import Picture
from megacontext.evaluation.reporting.lines import (
    Lines,
    Quality,
    liked_budget,
    loss_by_bytes,
    milliseconds_by_history,
    recall_by_bytes,
    recall_by_history,
    trained,
)
from megacontext.evaluation.reporting.looks import LOOKS, look_of
from megacontext.evaluation.reporting.study import Part
from megacontext.plotting.figures import FAINT, INK, as_svg, new_figure, tidy

if TYPE_CHECKING:
    from megacontext.plotting.figures import Axes, Figure

KEY_COLUMNS = 6
TOLD = ("megacontext", "full", "oracle", "random", "streaming_llm", "transformers")
SIZE = (10.0, 4.2)  # inches, of two panels; the key's lines come on top
KEY_LINE = 0.21


class Drawn(NamedTuple):
    """A picture for the page, and its figure for a file."""

    picture: Picture
    figure: Figure


class Panel(NamedTuple):
    """dress: what sets its axes, in order."""

    lines: Lines
    title: str
    axis: str
    dress: tuple[Callable[[Axes], None], ...]


def pictures_of(part: Part | None, timed: Sequence[Row], suffix: str = "") -> list[Drawn]:
    """Those that there are points for. suffix: of their names, where a report has several settings."""
    found = [_of_speed(timed, suffix)] if part is None else [_of_quality(part, suffix), _of_recall(part, suffix)]
    return [one for one in found if one is not None]


def _of_quality(part: Part, suffix: str) -> Drawn | None:
    recall, loss = recall_by_bytes(part), loss_by_bytes(part)
    panels = {
        "recall": Panel(
            recall.lines, "facts recalled (share of questions)", "megabytes in memory", (shares, plain_numbers)
        ),
        "loss": Panel(
            loss.lines, "nats a token above full attention", "megabytes in memory", (zero_line, plain_numbers)
        ),
    }
    note = "; ".join(f"{name}: {one.words}" for name, one in (("left", recall), ("right", loss)) if one.lines)
    alt = f"Quality against megabytes in memory, a line for each memory over its budgets; {note}. {_best_of(recall)}"
    return _drawn(f"quality_by_bytes{suffix}", "Quality against bytes", alt, panels)


def _best_of(recall: Quality) -> str:
    """The points of MegaContext in words."""
    ours = recall.lines.get("megacontext", [])
    told = ", ".join(f"{share:.2f} at {size:.0f} MB" for size, share in ours)
    return f"MegaContext recalls {told}." if told else ""


def _of_recall(part: Part, suffix: str) -> Drawn | None:
    lines, budget = recall_by_history(part), liked_budget(part)
    title = f"facts recalled (share of questions), {budget:,} slots" if budget else "facts recalled"
    panel = Panel(lines, title, "history, tokens", (shares, history_ticks(lines, None)))
    alt = f"Recall against tokens of history at {budget or 0:,} slots: {_last_points(lines, '.2f')}"
    return _drawn(f"recall_by_history{suffix}", "Recall against history", alt, {"recall": panel})


def _of_speed(timed: Sequence[Row], suffix: str) -> Drawn | None:
    lines = milliseconds_by_history(timed)
    dress = (from_0, history_ticks(lines, trained(timed)))
    panel = Panel(lines, "milliseconds a token (median)", "history, tokens", dress)
    alt = f"Milliseconds of a decoded token against tokens of history: {_last_points(lines, '.0f')}"
    return _drawn(f"milliseconds_by_history{suffix}", "Milliseconds against history", alt, {"speed": panel})


def _last_points(lines: Lines, spec: str) -> str:
    """The ends of the lines that matter most, in words."""
    shown = [name for name in lines if name in TOLD] or list(lines)[: len(TOLD)]
    told = [f"{look_of(name).label} {lines[name][-1][1]:{spec}} at {lines[name][-1][0]:,.0f}" for name in shown]
    return f"{', '.join(told)}."


def _drawn(name: str, title: str, alt: str, panels: Mapping[str, Panel]) -> Drawn | None:
    known = {key: panel for key, panel in panels.items() if panel.lines}
    if not known:
        return None
    figure = draw(known)
    return Drawn(Picture(name, title, alt, as_svg(figure, name, alt)), figure)


def draw(panels: Mapping[str, Panel]) -> Figure:
    """Panels side by side under one key."""
    names = len({name for panel in panels.values() for name in panel.lines})
    lines = -(-names // KEY_COLUMNS)
    height = SIZE[1] + KEY_LINE * lines
    figure, axes = new_figure([list(panels)], (SIZE[0], height))
    for key, panel in panels.items():
        _fill(axes[key], panel)
    _key(figure, [axes[key] for key in panels])
    return figure


def _fill(axes: Axes, panel: Panel) -> None:
    for name, points in panel.lines.items():
        look = look_of(name)
        x, y = zip(*points, strict=True)
        axes.plot(
            x, y, color=look.colour, marker=look.marker, markersize=5.5, linewidth=look.width, label=look.label,
            zorder=3 if name in ("megacontext", "full") else 2, clip_on=False,
        )  # fmt: skip
    axes.set_title(panel.title, loc="left", fontsize=10, color=INK)
    axes.set_xlabel(panel.axis, fontsize=9, color=INK)
    axes.set_xscale("log", base=2 if "history" in panel.axis else 10)
    tidy(axes)
    for dress in panel.dress:
        dress(axes)


def _key(figure: Figure, panels: Sequence[Axes]) -> None:
    """One for all panels, above them, each memory once."""
    entries = {label: line for axes in panels for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [look.label for look in LOOKS.values()]
    labels = sorted(entries, key=lambda label: order.index(label) if label in order else len(order))
    figure.legend(
        [entries[label] for label in labels], labels, loc="outside upper center", ncols=min(KEY_COLUMNS, len(labels)),
        frameon=False, fontsize=8.5, labelcolor=INK, handlelength=1.8, columnspacing=1.4,
    )  # fmt: skip


# --- axes ---


def shares(axes: Axes) -> None:
    axes.set_ylim(-0.03, 1.05)


def zero_line(axes: Axes) -> None:
    """Full attention's loss."""
    axes.axhline(0, color=FAINT, linewidth=1, linestyle=":")


def from_0(axes: Axes) -> None:
    axes.set_ylim(bottom=0)


def plain_numbers(axes: Axes) -> None:
    """20, 50, 100: a logarithmic axis without powers."""
    low, high = axes.get_xlim()
    every = [digit * 10.0**power for power in range(-2, 7) for digit in (1, 2, 5)]
    places = [place for place in every if low <= place <= high]
    axes.set_xticks(places, [f"{place:,g}" for place in places])
    axes.minorticks_off()
    axes.set_xlim(low, high)


def history_ticks(lines: Lines, trained_at: int | None) -> Callable[[Axes], None]:
    """A tick at every length that was measured; the trained length, where histories go beyond."""
    places = sorted({x for points in lines.values() for x, _ in points})

    def dress(axes: Axes) -> None:
        axes.set_xticks(places, [short(place) for place in places], rotation=45 if len(places) > 8 else 0)
        axes.minorticks_off()
        if trained_at and places and places[-1] > trained_at:
            axes.axvline(trained_at, color=FAINT, linestyle=":", linewidth=1)
            axes.annotate(
                "trained length", (trained_at, 0.7), (3, 0), xycoords=("data", "axes fraction"),
                textcoords="offset points", rotation=90, va="top", fontsize=7, color=FAINT,
            )  # fmt: skip

    return dress


def short(tokens: float) -> str:
    """`9.5k`."""
    return f"{tokens / 1000:.3g}k" if tokens >= 1000 else f"{tokens:.0f}"
