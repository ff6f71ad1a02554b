"""MLflow's limits and alphabet as pure functions. Imports no mlflow."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

# mlflow/utils/validation.py; per batch, and in characters
POINTS, ENTITIES, PAGE = 1000, 100, 1000
PARAM_CHARS, TAG_CHARS, NOTE_CHARS, KEY_CHARS, DIGEST_CHARS = 6000, 8000, 20_000, 250, 32


def batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    """Return slices of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))


def strings(values: Mapping[str, object], limit: int) -> dict[str, str]:
    """Return keys and values that MLflow takes, without None values."""
    return {key_of(key): clip(str(value), limit) for key, value in values.items() if value is not None}


def key_of(key: str) -> str:
    """Return a key in MLflow's alphabet ([\\w/ .:-]), others as _; no leading slash and no `..`, which mean paths."""
    parts = re.sub(r"[^\w/ .:-]", "_", key, flags=re.ASCII).split("/")
    return "/".join(part for part in parts if part.strip(". "))[:KEY_CHARS] or "_"


def clip(text: str, limit: int) -> str:
    """Return at most `limit` characters; what is cut ends at a line where there is one and says so."""
    if len(text) <= limit:
        return text
    head, newline, _ = text[: limit - 3].rpartition("\n")
    return f"{head}\n…" if newline and len(head) > limit // 2 else text[: limit - 1] + "…"


def word(value: str) -> str:
    """Return a value that may stand in a filter: an id or a digest, never a quote."""
    if not re.fullmatch(r"[\w.:-]+", value):
        raise ValueError(f"'{value}' is not an id or digest")
    return value
