"""Figures of a report as values: what is drawn, and what it says to a reader who does not see it.

A figure is drawn when it is written, so that a table alone waits for no plotting library.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import matplotlib.figure

DPI = 160


@dataclass(frozen=True)
class Figure:
    """One figure: its caption, the alternative text (what it shows, in numbers where there are few), how to draw it."""

    title: str
    alt: str
    draw: Callable[[], "matplotlib.figure.Figure"] = field(compare=False, repr=False)
    folded: bool = False  # whether a page shows it on demand only


def import_libraries() -> None:
    """Import what draws, which takes a second; what is wrong with it is said where something is drawn."""
    with suppress(Exception):
        import seaborn  # noqa: F401


def forms(svg: bool) -> tuple[str, ...]:
    """Return the suffixes of a figure's files."""
    return ("png", "svg") if svg else ("png",)


def render(figure: Figure, svg: bool = False) -> dict[str, bytes]:
    """Return the figure as PNG and, where asked, SVG; equal figures give equal bytes, whatever a matplotlibrc says."""
    import matplotlib

    data = {}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": figure.title, "svg.fonttype": "path"})
        drawing = figure.draw()
        for form in forms(svg):
            out = BytesIO()
            metadata = {"Date": None} if form == "svg" else {}
            drawing.savefig(out, format=form, dpi=DPI, bbox_inches="tight", metadata=metadata)
            data[form] = out.getvalue()
    return data


def save(figure: Figure, folder: Path, stem: str, svg: bool) -> None:
    """Write STEM.png and, where asked, STEM.svg. Raise OSError."""
    for form, data in render(figure, svg).items():
        (folder / f"{stem}.{form}").write_bytes(data)
