"""Every table as LaTeX, set by a real pdflatex."""

import subprocess
from pathlib import Path

from system_parts import need, program

from harness.core.table import Table, latex

NASTY = r"50% of_A & B | <b>*x*</b> {\cmd} $1 #2 ~^ ± − × “…” [red] é 中"
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
    (tmp_path / "table.tex").write_text(DOCUMENT % latex(made), encoding="utf-8")
    words = [str(program("pdflatex")), "-interaction=nonstopmode", "-halt-on-error", "table.tex"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "table.pdf").stat().st_size > 5000
