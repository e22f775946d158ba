"""The one place of matplotlib: one palette, tidy axes, figures without a window, pictures as PNG and as inline SVG.

Colours are named by what they are for. In an SVG each becomes a CSS variable, so a page can show it light or dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megacontext.errors import ConfigError, MissingAsset
from nanochat.files import atomic_write
from nanochat.harmless import harmless

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

INK, FAINT, GRID = "#222222", "#767676", "#e4e4e4"
BLUE, ORANGE, GREEN, VERMILION, PINK, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#bdbdbd"
LEVELS = ("#08519c", "#4292c6", "#9ecae1", "#d3e4f3")  # exact first, then ever coarser
HEALTHY, TOLERABLE = "#e3f2e6", "#fcf3d9"
DPI = 150

# colour -> (name of its CSS variable, what it becomes on a dark page); Okabe and Ito's colours, ColorBrewer's blues
THEME = {
    INK: ("ink", "#e8e8e8"),
    FAINT: ("faint", "#a0a0a0"),
    GRID: ("grid", "#3d3d3d"),
    BLUE: ("blue", "#56b4e9"),
    ORANGE: ("orange", "#f0b429"),
    GREEN: ("green", "#2fc79a"),
    VERMILION: ("vermilion", "#f0803c"),
    PINK: ("pink", "#dd95bd"),
    GREY: ("grey", "#6e6e6e"),
    LEVELS[0]: ("level-0", "#9ecae1"),
    LEVELS[1]: ("level-1", "#4292c6"),
    LEVELS[2]: ("level-2", "#1f5d99"),
    LEVELS[3]: ("level-3", "#143a63"),
    HEALTHY: ("healthy", "#17331f"),
    TOLERABLE: ("tolerable", "#3a3013"),
}


def new_figure(
    rows: Sequence[Sequence[str]], size: tuple[float, float], *, head: float = 0.0, foot: float = 0.0
) -> tuple[Figure, dict[str, Axes]]:
    """A figure of `size` inches and its panels by name; rows as in `subplot_mosaic`.

    head, foot: shares of the height that the panels leave free. Raises MissingAsset without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingAsset("matplotlib is not installed: pip install 'megacontext[plots]'") from error
    layout = ConstrainedLayoutEngine(rect=(0, foot, 1, 1 - head - foot), h_pad=0.08, w_pad=0.06)
    figure = Figure(figsize=size, dpi=DPI, layout=layout)
    return figure, figure.subplot_mosaic([list(row) for row in rows])


def tidy(axes: Axes) -> None:
    """No frame but the two axes, a faint grid, small figures."""
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=8, color=FAINT)


def key_patch(colour: str, label: str) -> Patch:
    """An entry of a legend: an area."""
    from matplotlib.patches import Patch

    return Patch(facecolor=colour, edgecolor="none", label=label)


def key_line(label: str, *, marker: str = "", dashed: bool = False) -> Line2D:
    """An entry of a legend: a mark, or a dashed line."""
    from matplotlib.lines import Line2D

    line = Line2D([], [], color=FAINT if dashed else BLUE, marker=marker, markersize=5, label=label)
    line.set_linestyle((0, (2, 2)) if dashed else "none")
    return line


def plain_text(figure: Figure, at: tuple[float, float], text: str, **looks: Any) -> None:
    """Words at a place of the figure, as shares of its size. Dollar signs are dollar signs, not mathematics."""
    figure.text(*at, harmless(text), parse_math=False, **looks)


def save_png(figure: Figure, out: Path) -> None:
    """Write the picture, and the folders above it. Raises ConfigError if that cannot be done."""
    buffer = io.BytesIO()
    with _without_complaints():
        figure.savefig(buffer, format="png", facecolor="white", metadata={"Software": None})
    _save(buffer.getvalue(), out)


@contextmanager
def _without_complaints() -> Iterator[None]:
    """A letter that the font lacks is drawn as a box; that is no news for whoever waits for the picture."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        yield


def save_text(text: str, out: Path) -> None:
    """Write a page, as `save_png` writes a picture."""
    _save(text.encode("utf-8"), out)


def _save(data: bytes, out: Path) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(out) as file:
            file.write(data)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}): name another place with --out") from error


def as_svg(figure: Figure, name: str, alt: str) -> str:
    """The picture as an element of a page. name: unique there. alt: what it shows, for those who cannot see it."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with _without_complaints(), rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)
    opening = f'<svg {box[0] if box else ""} role="img" aria-label="{escape(alt)}">'
    svg = re.sub(r"<svg\b[^>]*>", lambda _: opening, svg, count=1)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    return _themed(_own_ids(svg, name))


def _own_ids(svg: str, name: str) -> str:
    """Ids that are referred to get `name` before them, the others go: a page has each id once."""
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', svg))
    svg = re.sub(r' id="([\w.-]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", svg)
    return re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)


def _themed(svg: str) -> str:
    """Each colour of the palette as its CSS variable."""
    return re.sub(r"#[0-9a-f]{6}\b", lambda m: f"var(--{THEME[m[0]][0]})" if m[0] in THEME else m[0], svg)


def css_variables(*, dark: bool) -> str:
    """The palette as CSS declarations, for a light or a dark page."""
    return " ".join(f"--{name}: {other if dark else colour};" for colour, (name, other) in THEME.items())
