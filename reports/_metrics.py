"""The other numbers of VSPW's scripts for every row, beside the mIoU that the table is about."""

from collections.abc import Sequence

from harness.results.rows import Context, Row
from harness.results.table import Table

NONE = "–"


def table(rows: Sequence[Row], context: Context) -> Table | None:
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
    keys = [key for key in names if any(key in row.metrics for row in rows)]
    if not set(keys) - {"miou"}:
        return None
    notes = ["In percent, means over seeds. mIoU, nanmean: a class that is only predicted counts as 0."]
    if any(key.startswith("mvc") for key in keys):
        official = "predictions need only be constant; a video's last window is skipped, as in VSPW's script"
        stricter = "every window; void is ignored; predictions must be constant and correct"
        notes.append(f"mVC, {context.vc} variant: {stricter if strict else official}.")
    return Table(
        f"{context.title}: other metrics",
        ("Method", *(names[key] for key in keys)),
        tuple((row.label, *(f"{row.metrics[k]:.2f}" if k in row.metrics else NONE for k in keys)) for row in rows),
        tuple(notes),
        "l" + "r" * len(keys),
        raw=tuple({"cell": row.cell, **{key: row.metrics.get(key) for key in keys}} for row in rows),
    )
