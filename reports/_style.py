"""The house style of every figure: one colour per method everywhere, safe for colour-blind readers, no mathtext.

    def draw() -> Figure:
        with house():
            figure, axis = canvas(7, 3)
            axis.plot(...)
            return figure

Colours: Okabe and Ito's set, without its yellow (too light on white). Order is by `SEQUENCE`, signs are by `SIGNS`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from zlib import crc32

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from harness.results.stats import Interval

OWN = {
    ("upernet", "UPerNet"): "#5f6368",
    ("decoder_a", "Decoder A"): "#0072b2",
    ("decoder_b", "Decoder B"): "#d55e00",
    ("decoder_ab", "Decoder A+B"): "#009e73",
}
METHODS = {name: colour for names, colour in OWN.items() for name in names}  # by cell or decoder, and as tables name it
SPARE = ("#cc79a7", "#e69f00", "#56b4e9", "#7b5ea7", "#8c6d31", "#17807e", "#a8324a", "#3b3b98")
SEQUENCE = "cividis"  # a quantity, dark to light
SIGNS = "PuOr"  # a signed quantity around 0
PAPER = "#1a1a1a"  # the paper's own numbers
MUTED = "#8a8a8a"  # axes, zero lines, what is not the point
RULES = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "text.parse_math": False,  # names come from data: a dollar sign is a dollar sign
    "figure.facecolor": "white",
    "svg.fonttype": "path",
}


@contextmanager
def house() -> Iterator[None]:
    """Draw inside of it: seaborn's white grid with our rules, whatever a matplotlibrc says; nothing outside changes."""
    import matplotlib
    import seaborn

    rules: dict[Any, Any] = {**seaborn.axes_style("whitegrid"), **seaborn.plotting_context("notebook"), **RULES}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(rules)
        yield


def canvas(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> "tuple[Figure, Any]":
    """A figure in inches and its axes (one, or an array); no window and no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for each method by name: the paper's have their own, another keeps its own between reports."""
    palette: dict[str, str] = {}
    for name in sorted(set(names)):
        free = [colour for colour in SPARE if colour not in palette.values()] or list(SPARE)
        preferred = SPARE[crc32(name.encode()) % len(SPARE)]
        palette[name] = METHODS.get(name) or (preferred if preferred in free else free[0])
    return palette


def whiskers(
    axis: "Axes", position: float, value: float, interval: "Interval", colour: str, upright: bool = False
) -> None:
    """A point with its interval, at `position` on the other axis; a hollow point where there is no interval."""
    ends = [end for end in interval[:2] if end is not None]
    if ends:
        along, across = ends, [position, position]
        axis.plot(*((across, along) if upright else (along, across)), color=colour, solid_capstyle="butt", lw=2.2)
    spot = (position, value) if upright else (value, position)
    axis.plot(*spot, "o", color=colour, markerfacecolor=colour if ends else "white", markeredgewidth=1.6, zorder=3)


def zero(axis: "Axes", upright: bool = True) -> None:
    """The line of no gain."""
    (axis.axvline if upright else axis.axhline)(0, color=MUTED, lw=1, zorder=1)
