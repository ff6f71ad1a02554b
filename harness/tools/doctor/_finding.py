"""One line of a doctor's report, and how errors become one."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from harness.common.errors import HarnessError
from harness.common.redaction import one_line, redact

SHOWN = 3  # examples named in one line


@dataclass(frozen=True)
class Finding:
    """A result on a part: fit, not fit (then with a remedy), or None for a note."""

    part: str  # data, weights, devices, software, store, disk
    fit: bool | None
    text: str
    remedy: str = ""


def line(finding: Finding) -> str:
    """Return a finding for people: `OK`, `FAIL` or `note`, the part, what is so, and what to do."""
    word = {True: "OK", False: "FAIL", None: "note"}[finding.fit]
    remedy = f"  ->  {finding.remedy}" if finding.remedy else ""
    return f"{word:<6}{finding.part:<10}{finding.text}{remedy}"


def findings_json(findings: Iterable[Finding]) -> dict[str, object]:
    """Return all findings as one JSON value; "fit" is whether none of them is unfit."""
    rows = [asdict(finding) for finding in findings]
    return {"schema": 1, "fit": all(row["fit"] is not False for row in rows), "findings": rows}


def unfit(part: str, error: HarnessError, remedy: str, fit: bool | None = False) -> Finding:
    """Return an error as a finding: our messages say what is wrong, then "; " and what to do; else `remedy` is used."""
    text = " ".join(redact(str(error)).split())
    what, semicolon, own = text.rpartition("; ")
    return Finding(part, fit, what, own) if semicolon else Finding(part, fit, text, remedy)


def reason(error: Exception) -> str:
    """Return an exception in one line; of those that are no message of ours, with the type."""
    text = one_line(error)
    return text if isinstance(error, HarnessError) else f"{type(error).__name__}: {text}"


def count(number: int, noun: str) -> str:
    """Return a number and its noun: `1 video`, `2 806 videos`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}".replace(",", " ")


def some(names: Iterable[object]) -> str:
    """Return the first few names, and how many more."""
    texts = [str(name) for name in names]
    more = len(texts) - SHOWN
    return ", ".join(texts[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def size(number: float) -> str:
    """Return the bytes for people."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
