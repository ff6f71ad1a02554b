"""Tables as LaTeX, set by a real pdflatex: names of any kind, and every table that the reports make."""

import subprocess
from pathlib import Path

import finished_root
import pytest
from system_parts import need, program
from test_page import report

from harness.results.table import Table, latex

NASTY = r"50% of_A & B | <b>*x*</b> {\cmd} $1 #2 ~^ ± − × “…” [red] é 中"
EMPTY = 5000  # bytes that a page without a table stays below
DOCUMENT = r"""\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{textcomp}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


def test_pdflatex_sets_names_of_any_kind(tmp_path: Path) -> None:
    need("latex")
    made = Table("A_B & C", ("Method", "mIoU"), ((NASTY[:-1], "1.00 ± 0.10"), ("[b", "−0.50")), (NASTY[:-1],), "lr")
    assert typeset(tmp_path, latex(made)) > EMPTY


@pytest.mark.parametrize("name", ["ablation_ensemble", "ablation_stages", "ablation_momentum", "final_framework"])
def test_pdflatex_sets_every_table_of_a_report(name: str, tmp_path: Path) -> None:
    need("latex")
    made = report(finished_root.make(tmp_path / "root", videos=3, experiment=name)).report
    tables = [*made.tables.values(), *made.appendix.values()]
    assert len(tables) == 5  # the table, all metrics, their intervals, cost, by class
    assert typeset(tmp_path, "\n".join(latex(table) for table in tables)) > EMPTY


def typeset(folder: Path, text: str) -> int:
    """Set it, or fail with what pdflatex said; the bytes of the PDF."""
    (folder / "table.tex").write_text(DOCUMENT % text, encoding="utf-8")
    words = [str(program("pdflatex")), "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    return (folder / "table.pdf").stat().st_size
