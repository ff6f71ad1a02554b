"""The other numbers of VSPW's scripts for every row, beside the mIoU that the table is about."""

from typing import Any

from harness.results.rows import Context
from harness.results.table import Table

NONE = "–"


def table(title: str, cells: list[dict[str, Any]], context: Context) -> Table | None:
    """One row a cell, means over seeds; None where no row has more than its mIoU."""
    strict = context.vc == "strict"
    names = {
        "miou": "mIoU",
        "miou_nanmean": "mIoU, nanmean",
        "fwiou": "wIoU",
        "accuracy": "pixel accuracy",
        "mean_accuracy": "mean accuracy",
        "mvc8_strict" if strict else "mvc8": "mVC8",
        "mvc16_strict" if strict else "mvc16": "mVC16",
    }
    rows = [(cell, cell["metrics"] or {}) for cell in cells]
    keys = [key for key in names if any(key in known for _, known in rows)]
    if not set(keys) - {"miou"}:
        return None
    notes = ["In percent, means over seeds. mIoU, nanmean: a class that is only predicted counts as 0."]
    if any(key.startswith("mvc") for key in keys):
        official = "predictions need only be constant; a video's last window is left out, as in VSPW's script"
        stricter = "every window; void is left out; predictions must be constant and right"
        notes.append(f"mVC, {context.vc} variant: {stricter if strict else official}.")
    return Table(
        f"{title}: other metrics",
        ("Method", *(names[key] for key in keys)),
        tuple((str(cell["label"]), *(f"{known[k]:.2f}" if k in known else NONE for k in keys)) for cell, known in rows),
        tuple(notes),
        "l" + "r" * len(keys),
        raw=tuple({"cell": cell["cell"], **{key: known.get(key) for key in keys}} for cell, known in rows),
    )
