"""Tables as values, and their Markdown, CSV, LaTeX and terminal forms. Names come from data: each form escapes them."""

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill

from harness.results import figure
from harness.results.figure import Figure

WIDTH = 100  # columns of a terminal that a table should fit
TEXT = 24  # columns that a text gets in a table that is too wide

MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~$])")
LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "{}$&%#_"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        '"': r"\textquotedbl{}",
        "±": r"$\pm$",
        "−": "$-$",
        "×": r"$\times$",
        "–": "--",
        "—": "---",
        "…": r"\ldots{}",
        "·": r"$\cdot$",
        "§": r"\S{}",
    }
)


@dataclass(frozen=True)
class Table:
    """Rows of display strings; `raw` holds the same rows unrounded, for CSV."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    align: str = ""  # one of l, c, r a column
    bold: frozenset[tuple[int, int]] = field(default_factory=frozenset)  # (row, column) of the best
    raw: tuple[Mapping[str, object], ...] = ()
    links: Mapping[tuple[int, int], str] = field(default_factory=dict)  # (row, column) -> where it leads

    def __post_init__(self) -> None:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"{self.title}: a column name occurs twice")
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.title}: a row has not {len(self.columns)} cells")
        for column, cell in (pair for row in self.rows for pair in zip(self.columns, row, strict=True)):
            if not isinstance(cell, str):
                raise TypeError(f"column '{column}': {cell!r} is no text; format it, as f\"{{value:.2f}}\"")
        object.__setattr__(self, "align", self.align or "l" * len(self.columns))
        if not re.fullmatch(f"[lcr]{{{len(self.columns)}}}", self.align):
            raise ValueError(f"{self.title}: align '{self.align}' must have one of l, c, r a column")


@dataclass(frozen=True)
class Report:
    """The result of a file of reports/: tables and figures by name, and the lines above them.

    `appendix` holds tables too long to be printed; they are written like the others.
    """

    title: str
    tables: Mapping[str, Table]
    command: str = ""
    notes: tuple[str, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    appendix: Mapping[str, Table] = field(default_factory=dict)
    headline: str = ""  # what the tables come to, in one sentence
    source: str = field(default="", compare=False)  # the module that made it


def signed(value: float, digits: int = 2) -> str:
    """Return a number with a sign and a real minus; what rounds to nothing has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")


def clean(text: str) -> str:
    """Return one line without control characters: no name moves a cursor, breaks a row or hides what follows."""
    return "".join(c for c in " ".join(text.split()) if unicodedata.category(c) not in ("Cc", "Cf"))


def markdown_text(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return MARKDOWN.sub(r"\\\1", clean(text)).replace("&", "&amp;")


def latex_text(text: str) -> str:
    """Return text that LaTeX sets as it is."""
    return clean(text).translate(LATEX)


def markdown(table: Table, headline: str = "") -> str:
    """Return a heading, the headline, a pipe table, notes as a list."""
    rows = [[markdown_cell(table, i, j) for j in range(len(row))] for i, row in enumerate(table.rows)]
    body = grid([markdown_text(column) for column in table.columns], rows, table.align, "pipe")
    parts = [f"## {markdown_text(table.title)}", *([markdown_text(headline)] if headline else []), body]
    if table.notes:
        parts.append("\n".join(f"- {markdown_text(note)}" for note in table.notes))
    return "\n\n".join(parts) + "\n"


def grid(headers: Sequence[str], rows: Sequence[Sequence[str]], align: str, form: str) -> str:
    """Return the cells in one of tabulate's forms; `align` has a letter a column."""
    import tabulate

    tabulate.MIN_PADDING = 0  # a header needs no more room than its letters
    names = {"l": "left", "c": "center", "r": "right"}
    aligned = [names[letter] for letter in align] if rows else None
    return str(tabulate.tabulate(rows, headers=headers, tablefmt=form, colalign=aligned, disable_numparse=True))


def markdown_cell(table: Table, row: int, column: int) -> str:
    """Return a cell's text, bold for the best, a link where it leads somewhere."""
    text = markdown_text(table.rows[row][column])
    text = f"**{text}**" if (row, column) in table.bold else text
    link = table.links.get((row, column))
    return text if link is None else f"[{text}](<{clean(link).replace('>', '%3E').replace('|', '%7C')}>)"


def to_csv(table: Table) -> str:
    """Return the raw values, full precision, empty if not known; the display strings if a table has no raw values."""
    out = io.StringIO()
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    raw = [dict(row) for row in table.raw] or rows
    writer = csv.DictWriter(out, list(raw[0]) if raw else list(table.columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: clean(v) if isinstance(v, str) else v for k, v in row.items()} for row in raw)
    return out.getvalue()


def latex(table: Table) -> str:
    r"""Return a table environment with booktabs rules (\usepackage{booktabs}); notes below in small type."""
    header = [latex_text(column) for column in table.columns]
    rows = [
        [rf"\textbf{{{latex_text(cell)}}}" if (i, j) in table.bold else latex_cell(cell) for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    notes = [rf"\par\smallskip{{\footnotesize {latex_text(note)}}}" for note in table.notes]
    lines = [
        *(r"\begin{table}", r"\centering", rf"\caption{{{latex_text(table.title)}}}"),
        *(rf"\begin{{tabular}}{{{table.align}}}", r"\toprule", latex_line(header), r"\midrule"),
        *map(latex_line, rows),
        *(r"\bottomrule", r"\end{tabular}", *notes, r"\end{table}"),
    ]
    return "\n".join(lines) + "\n"


def latex_line(cells: Sequence[str]) -> str:
    r"""Return cells between ampersands, ended by \\."""
    return " & ".join(cells) + r" \\"


def latex_cell(text: str) -> str:
    r"""Return a cell's text; behind the \\ of the row before, a [ or a * at its start would be an argument of it."""
    escaped = latex_text(text)
    return f"{{{escaped}}}" if escaped.startswith(("[", "*")) else escaped


def plain(table: Table, width: int | None = None) -> str:
    """Return the text for a terminal of `width` columns, or for a log (None: notes stay whole, to be searched for).

    A table that is too wide gets headers and texts of several lines; a number is never broken.
    """
    columns = [[clean(text) for text in column] for column in zip(table.columns, *table.rows, strict=True)]
    if sum(max(map(len, column)) + 2 for column in columns) - 2 > (width or WIDTH):
        columns = [narrow(column, letter == "l") for column, letter in zip(columns, table.align, strict=True)]
    headers, *rows = zip(*columns, strict=True)
    body = grid(headers, rows, table.align, "simple")
    notes = [f"  {clean(note)}" for note in table.notes]
    if width:
        notes = [fill(note, max(width, TEXT), subsequent_indent="    ") for note in notes]
    return "\n".join([clean(table.title), "", body, *notes]) + "\n"


def narrow(column: Sequence[str], text: bool) -> list[str]:
    """Return a column, header first, in lines: at most TEXT characters wide, a header no wider than its values."""
    header, *cells = column
    if text:
        cells = [fill(cell, TEXT) for cell in cells]
    room = max([1, *(len(line) for cell in cells for line in cell.split("\n"))])
    return [fill(header, room, break_long_words=False, break_on_hyphens=False), *cells]


def report_markdown(report: Report, appendix: bool = False) -> str:
    """Return the report; where it is one table of the same title, the title stands once."""
    titles = {table.title for table in report.tables.values()}
    parts = [] if titles == {report.title} else [f"# {markdown_text(report.title)}\n"]
    parts += [f"{markdown_text(note)}\n" for note in report.notes]
    for index, table in enumerate([*report.tables.values(), *(report.appendix.values() if appendix else ())]):
        parts.append(markdown(table, "" if index else report.headline))
    if report.command:
        parts.append("    " + clean(report.command) + "\n")  # an indented code block needs no escape
    return "\n".join(parts)


def write(report: Report, folder: Path, draw: bool = True, svg: bool = False) -> list[Path]:
    """Write report.md, every table as .csv and .tex, every figure as .png, by name; returns their paths.

    With `svg` figures are .svg, too; without, an earlier .svg is removed. Figures that are there already need not be
    drawn. Raise OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"report.md": report_markdown(report, appendix=True)}
    for name, table in {**report.tables, **report.appendix}.items():
        texts[f"{stem(name)}.csv"] = to_csv(table)
        texts[f"{stem(name)}.tex"] = latex(table)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = figure_files(report, svg)
    for name in {*figure_files(report, svg=True)} - {*files}:
        (folder / name).unlink(missing_ok=True)
    if draw:
        for name, each in report.figures.items():
            figure.save(each, folder, stem(name), svg)
    return [folder / name for name in (*texts, *files)]


def figure_files(report: Report, svg: bool) -> list[str]:
    """Return the names of the files of a report's figures."""
    return [f"{stem(name)}.{form}" for name in report.figures for form in figure.forms(svg)]


def stem(name: str) -> str:
    """Return a table's or a figure's name as a file's."""
    return re.sub(r"[^\w-]", "_", name)


def unique(labels: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """Return labels as headers: one that stands twice, or is a header already, is numbered."""
    times = Counter(taken)
    headers = []
    for label in labels:
        times[label] += 1
        headers.append(label if times[label] == 1 else f"{label} ({times[label]})")
    return headers
