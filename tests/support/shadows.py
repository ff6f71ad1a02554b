"""Files and folders of a working directory with the names of our packages."""

from pathlib import Path

NAMES = ("models", "experiments", "reports", "harness")
TRAP = "raise SystemExit('imported from the working directory')\n"


def shadow(folder: Path, kind: str) -> None:
    """Put all four names into a folder, as files ('file') or as packages ('folder')."""
    for name in NAMES:
        path = folder / f"{name}.py" if kind == "file" else folder / name / "__init__.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(TRAP)
