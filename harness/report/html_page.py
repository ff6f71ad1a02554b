"""What every HTML page of the harness has: one file with no network, one script of its own, and names escaped.

Figures are inside it as PNG, or as SVG with `report.svg`; its content security policy allows its own script by hash
and nothing else.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from harness.results import table
from harness.results.figure import DPI
from harness.results.rows import Context
from harness.results.table import Report, Table, stem

NAME = "index.html"
TEMPLATES = Path(__file__).parent / "templates"
NOTES = 3  # of a table that are shown

Section = tuple[str, str]  # anchor, name


def render(
    template: str,
    report: Report,
    context: Context,
    folder: Path,
    title: str,
    facts: Sequence[tuple[str, str]],
    commands: Sequence[str],
    before: Sequence[Section] = (),
    after: Sequence[Section] = (),
    **content: Any,
) -> str:
    """Return a page's text: `before` and `after` are the template's own sections around figures and appendix.

    Figures that are not in the folder are left out.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined)
    environment.filters["whole"] = whole
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    pictures = figures(report, folder, context.svg)
    contents = [("tables", "Results"), *before, *([("figures", "Figures")] if pictures else [])]
    contents += [(name, capitalised(each.title.rpartition(": ")[2])) for name, each in report.appendix.items()]
    return environment.get_template(template).render(
        report=report,
        context=context,
        title=title,
        facts=facts,
        figures=pictures,
        copies=copies,
        notes=notes,
        script=Markup(script),
        script_digest="sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        contents=[*contents, *after, ("again", "Reproduce")],
        again=commands,
        **content,
    )


def capitalised(text: str) -> str:
    """Return a heading with a capital first letter; 'mIoU' and 'IoU' stay as they are."""
    return text if text[1:2].isupper() else text[:1].upper() + text[1:]


def notes(shown: Table) -> tuple[list[str], list[str]]:
    """Return a table's notes, those that are shown and those that are folded; the banner has the setting already."""
    texts = [note for note in shown.notes if not note.startswith("Not the paper's setting")]
    return (texts, []) if len(texts) <= NOTES + 1 else (texts[:NOTES], texts[NOTES:])


def copies(shown: Table) -> list[tuple[str, str]]:
    """Return a table as a person pastes it: format and text."""
    return [("Markdown", table.markdown(shown)), ("CSV", table.to_csv(shown)), ("LaTeX", table.latex(shown))]


def whole(cell: str) -> str:
    """Return a cell that breaks before its interval, and nowhere within a number."""
    return re.sub(r"(?<=[\d)\]]) (?=[±%])|(?<=±) |(?<=,) (?=[−+\d])", "\u00a0", cell)


def figures(report: Report, folder: Path, svg: bool) -> list[dict[str, Any]]:
    """Return those that are there as pictures inside the page, in the size in which they were drawn."""
    pictures: list[dict[str, Any]] = []
    for name, figure in report.figures.items():
        path = folder / f"{stem(name)}.{'svg' if svg else 'png'}"
        if path.is_file():
            picture = {"name": stem(name), "title": figure.title, "alt": figure.alt, "folded": figure.folded}
            picture["source"] = inside("image/svg+xml" if svg else "image/png", path.read_bytes())
            picture["width"] = None if svg else width(path)
            pictures.append(picture)
    return pictures


def width(path: Path) -> int:
    """Return a PNG's width in CSS pixels, of which an inch has 96; an SVG says its own."""
    with Image.open(path) as image:
        return round(96 * image.width / DPI)


def inside(kind: str, data: bytes) -> str:
    """Return a file as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
