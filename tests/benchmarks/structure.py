"""Count what makes a code base hard to enter: its size, untyped dictionaries, vague names, facts said twice.

python tests/benchmarks/structure.py [COMMIT]     # of the working tree, or of a commit, as a table
"""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from tabulate import tabulate

PROJECT = Path(__file__).parents[2]
VAGUE_NAMES = ("found", "one", "known", "made", "place", "said", "told", "seen", "held")
UNTYPED = re.compile(r"\b(?:dict|Mapping)\[str, Any\]")


def sources(commit: str | None) -> dict[str, str]:
    """Return path -> text of every Python file of harness/, of the working tree or of a commit."""
    if commit is None:
        files = sorted((PROJECT / "harness").rglob("*.py"))
        return {path.relative_to(PROJECT).as_posix(): path.read_text() for path in files}
    listing = git("ls-tree", "-r", "--name-only", commit, "harness").splitlines()
    return {path: git("show", f"{commit}:{path}") for path in listing if path.endswith(".py")}


def git(*words: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *words], cwd=PROJECT, capture_output=True, text=True, check=True).stdout


def names(text: str) -> Iterator[str]:
    """Yield the identifiers of a source file, as often as they are written; none of its comments and strings."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield token.string


def nodes(files: Mapping[str, str]) -> Iterator[ast.AST]:
    """Yield every node of every file's syntax tree."""
    for text in files.values():
        yield from ast.walk(ast.parse(text))


def counts(files: Mapping[str, str]) -> dict[str, int]:
    """Return what is counted -> how often."""
    whole = "\n".join(files.values())
    functions = [node for node in nodes(files) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = [ast.get_docstring(node) or "" for node in nodes(files) if isinstance(node, documented)]
    identifiers = Counter(name for text in files.values() for name in names(text))
    parameters = [argument.arg for node in functions for argument in [*node.args.args, *node.args.kwonlyargs]]
    loose = [path for path in files if path.count("/") == 1 and not path.endswith(("__init__.py", "__main__.py"))]
    return {
        "lines": sum(text.count("\n") for text in files.values()),
        "files": len(files),
        "files loose in harness/": len(loose),
        "functions": len(functions),
        "dict[str, Any] and Mapping[str, Any]": len(UNTYPED.findall(whole)),
        'job["…"] reads': len(re.findall(r"\bjob\[\"", whole)),
        'event["…"] reads': len(re.findall(r"\b(?:event|e)\[\"", whole)),
        '"outcome.json" spelled': whole.count('"outcome.json"'),
        '"events.jsonl" spelled': whole.count('"events.jsonl"'),
        "parameters named say": parameters.count("say"),
        "files naming `deterministic`": sum("deterministic" in text for text in files.values()),
        "docstrings that open with What/Where/Who/How": sum(
            bool(re.match(r"(What|Where|Who|How)\b", text)) for text in docstrings
        ),
        "references to a design that is elsewhere": len(re.findall(r"\b(?:design|science) §", whole)),
        **{f"identifier `{name}`": identifiers[name] for name in VAGUE_NAMES},
    }


def main() -> None:
    """Print the table."""
    commit = sys.argv[1] if len(sys.argv) > 1 else None
    print(tabulate(counts(sources(commit)).items(), headers=["harness/", commit or "working tree"]))


if __name__ == "__main__":
    main()
