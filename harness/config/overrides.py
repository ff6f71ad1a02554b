"""`key=value` of a command line as OmegaConf nodes: numbers are decimal or refused, paths are taken as they stand.

YAML 1.1, which OmegaConf reads values by, takes 010 for 8, 1:30 for 90 and cuts a text at ` #`: two seeds would be
one, and a path another, without a word.
"""

import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from typing import Any

import yaml
from omegaconf import OmegaConf

from harness.common.errors import UsageError

DECIMAL = re.compile(r"[-+]?(0|[1-9]\d*|(?=\.\d))(\.\d*)?([eE][-+]?\d+)?")
PLACES = ("where", "path", "content")  # metadata of fields that say where something is


def parse(override: str, schema: type) -> Any:
    """Return `key=value` as a node. Raise UsageError for what is none, or a number that is not decimal."""
    key, equals, text = override.partition("=")
    if not equals or not re.fullmatch(r"[\w.]+", key):
        raise UsageError(f"'{override}' is not KEY=VALUE")
    member = field_of(schema, key.split("."))
    if member is None and (longer := longer_keys(schema, key)):
        raise UsageError(f"{override}: no key '{key}'; did you mean {' or '.join(longer[:3])}?")
    if member is not None and is_place(member):
        node = OmegaConf.create()
        OmegaConf.update(node, key, None if text == "null" else escaped(text))
        return node
    try:
        node = OmegaConf.from_dotlist([override])
        written = [leaf or "" for leaf in leaves(yaml.load(text, yaml.BaseLoader))]
        values = list(leaves(OmegaConf.to_container(node, resolve=False)))[key.count(".") + 1 :]
    except Exception as error:
        raise UsageError(f"{override}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    if text.count("#") > sum(leaf.count("#") for leaf in written):
        raise UsageError(f"{override}: everything after ' #' would be dropped; put the value in quotes: '{key}=\"…\"'")
    numeric = member is not None and re.search(r"\b(int|float)\b", str(member.type)) is not None
    for leaf, value in zip(written, values, strict=False):
        number = type(value) in (int, float) or (numeric and re.fullmatch(r"[-+]?[\d_.]+", leaf))
        if number and re.search(r"\d", leaf) and not DECIMAL.fullmatch(leaf):
            read = f" would be read as {value}" if str(value) != leaf else ""
            raise UsageError(f"{override}: {leaf}{read}: write a decimal number, without leading zeros")
    return node


def field_of(schema: Any, names: list[str]) -> "Field[Any] | None":
    """Return the field that a dotted key leads to; None where there is none."""
    member = next((member for member in fields(schema) if member.name == names[0]), None)
    if member is None or len(names) == 1:
        return member
    inner = member.default_factory if callable(member.default_factory) else None
    return field_of(inner, names[1:]) if is_dataclass(inner) else None


def longer_keys(schema: Any, key: str) -> list[str]:
    """Return the full keys that end as `key` does and have all of its parts in their order: data.root, epochs."""
    parts = key.split(".")
    return [full for full in full_keys(schema) if full.endswith(f".{parts[-1]}") and contains(full.split("."), parts)]


def contains(names: list[str], parts: list[str]) -> bool:
    """Return whether the parts are among the names, in their order."""
    rest = iter(names)
    return all(part in rest for part in parts)


def full_keys(schema: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted key of every value of a schema."""
    for member in fields(schema):
        if is_dataclass(member.default_factory):
            yield from full_keys(member.default_factory, f"{prefix}{member.name}.")
        else:
            yield prefix + member.name


def is_place(member: "Field[Any]") -> bool:
    """Return whether a field holds a text that says where something is."""
    annotation = str(member.type)
    text = re.search(r"\bstr\b", annotation) is not None and "[" not in annotation
    return text and any(member.metadata.get(kind) for kind in PLACES)


def escaped(text: str) -> str:
    """Return a text that OmegaConf resolves to this one: no ${…} in it is an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda match: rf"{match[1] * 2}\${{", text)


def leaves(tree: Any) -> Iterator[Any]:
    """Yield keys and values of a plain tree, in its order."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield key
            yield from leaves(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree
