import csv
import io
from pathlib import Path

import pytest

from harness.results import table
from harness.results.table import Report, Table

NASTY = r"50% of_A & B | <b>*x*</b> {\cmd} $1 #2 ~^ [red]"


def make(name: str = "A", **rest: object) -> Table:
    fields = {"notes": ("first",), "align": "lr", "bold": frozenset({(0, 1)})}
    return Table("Title", ("Method", "mIoU"), ((name, "1.00"), ("B", "0.50")), **{**fields, **rest})  # type: ignore[arg-type]


def test_markdown_has_a_heading_aligned_columns_and_bold() -> None:
    lines = table.markdown(make()).splitlines()
    assert lines[0] == "## Title"
    assert lines[3].replace("-", "") == "|:|:|"
    assert "**1.00**" in lines[4]
    assert lines[-1] == "- first"


def test_markdown_keeps_a_nasty_name_in_its_cell() -> None:
    row = table.markdown(make(NASTY)).splitlines()[4]
    unescaped = row.replace("\\|", "")
    assert unescaped.count("|") == 3
    assert "<b>" not in row.replace("\\<", "")
    assert r"\*x\*" in row


def test_numbers_stay_as_they_were_written() -> None:
    one = Table("T", ("n",), (("+1.20",), ("007",)))
    assert "+1.20" in table.markdown(one)
    assert "007" in table.plain(one)


def test_latex_has_booktabs_and_escaped_names() -> None:
    made = table.latex(make(NASTY))
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\begin{tabular}{lr}", r"\textbf{1.00}"):
        assert part in made
    expected = r"50\% of\_A \& B | \textless{}b\textgreater{}*x*\textless{}/b\textgreater{} "
    expected += r"\{\textbackslash{}cmd\} \$1 \#2 \textasciitilde{}\textasciicircum{} [red]"
    assert expected in made


def test_latex_signs() -> None:
    assert table.latex_text("1 ± 2 − 3 – 4") == r"1 $\pm$ 2 $-$ 3 -- 4"


def test_csv_holds_raw_values() -> None:
    raw = ({"cell": 'a,"b"', "miou": 1.0 / 3, "gain": None}, {"cell": "c", "miou": None, "gain": 2})
    rows = list(csv.DictReader(io.StringIO(table.to_csv(make(raw=raw)))))
    assert rows[0] == {"cell": 'a,"b"', "miou": repr(1.0 / 3), "gain": ""}
    assert rows[1]["miou"] == ""


def test_csv_without_raw_values_holds_what_is_shown() -> None:
    assert table.to_csv(make()).splitlines() == ["Method,mIoU", "A,1.00", "B,0.50"]


def test_no_name_reaches_a_terminal_as_a_command() -> None:
    evil = make("\x1b[2Jx\ny\u202e")
    for text in (table.plain(evil), table.plain(evil, 60), table.markdown(evil), table.latex(evil), table.to_csv(evil)):
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[2Jx y" in text.replace("\\", "")


WIDE = Table(
    "T",
    ("Method", "mIoU (VSPW, BEiT-L)", "gain, 95% interval"),
    (("a method that is named by a whole sentence, as people do", "54.61 ± 0.48", "[+0.82, +0.84]"), ("B", "1", "–")),
    notes=("a note that is longer than forty columns, as most are",),
    align="lrr",
)


def test_a_wide_table_gets_lines_in_headers_and_texts_never_in_numbers() -> None:
    lines = table.plain(WIDE, 60).splitlines()
    assert max(map(len, lines)) <= 60
    assert "a method that is named   54.61 ± 0.48  [+0.82, +0.84]" in lines
    assert [line.split() for line in lines[2:4]] == [
        ["Method", "mIoU", "(VSPW,", "gain,", "95%"],
        ["BEiT-L)", "interval"],
    ]


def test_a_table_that_fits_and_a_logs_notes_stay_in_one_line() -> None:
    lines = table.plain(WIDE).splitlines()
    assert lines[2].split() == ["Method", "mIoU", "(VSPW,", "BEiT-L)", "gain,", "95%", "interval"]
    assert lines[-1] == f"  {WIDE.notes[0]}"
    assert len(table.plain(WIDE, 40).splitlines()) > len(lines)


@pytest.mark.parametrize("form", [table.markdown, table.latex, table.plain, table.to_csv])
def test_a_table_without_rows(form: object) -> None:
    made = form(Table("T", ("a", "b"), ()))  # type: ignore[operator]
    assert "a" in made
    assert "b" in made


@pytest.mark.parametrize(
    ("columns", "rows", "align"), [(("a", "a"), (), ""), (("a", "b"), (("1",),), ""), (("a",), (), "x")]
)
def test_a_crooked_table_is_refused(columns: tuple[str, ...], rows: tuple[tuple[str, ...], ...], align: str) -> None:
    with pytest.raises(ValueError, match=r"^T: "):
        Table("T", columns, rows, align=align)


def test_write(tmp_path: Path) -> None:
    report = Report("Title", {"one/../two": make()}, command="harness run x")
    paths = table.write(report, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == ["report.md", "one____two.csv", "one____two.tex"]
    assert all(path.parent == tmp_path / "new" / "folder" for path in paths)
    text = paths[0].read_text()
    assert text.startswith("## Title\n")
    assert text.endswith("    harness run x\n")


def test_a_report_of_several_tables_has_its_own_title() -> None:
    text = table.report_markdown(Report("Both", {"a": make(), "b": make()}, notes=("see below",)))
    assert text.startswith("# Both\n\nsee below\n")
    assert text.count("## Title") == 2


@pytest.mark.parametrize("cell", [1.5, None])
def test_a_cell_that_is_no_text_is_refused_by_its_column(cell: object) -> None:
    with pytest.raises(TypeError, match=rf"column 'mIoU': {cell} is no text; format it, as f\"{{value:\.2f}}\""):
        Table("T", ("Method", "mIoU"), (("A", cell),))  # type: ignore[arg-type]
