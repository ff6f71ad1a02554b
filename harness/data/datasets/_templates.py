"""Files by a template: `images/{split}/{video}/{frame}.*` lists files and says which video and frame each is of.

A template is a path below a root. `{video}` and `{frame}` stand for names, `*` for any text; none of them reaches over
a slash, and each takes as much as it can: of `{video}_{frame}.png`, a_b_7.png is frame 7 of a_b. `{split}` is put in.
Hidden files are none, symbolic links are followed.
"""

import os
import re
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from harness.common.errors import UnfitError, UsageError
from harness.data.pictures import shown

FIELDS = ("video", "frame")
WILD = re.compile(r"(\*|\{\w+\})")

Frame = tuple[str, str]  # video, frame


class Lines(NamedTuple):
    """The lines of a split's list, in its order; each names a video, VIDEO/FRAME, or an image by its path or name."""

    path: Path
    names: tuple[str, ...]


def check(template: str, key: str) -> None:
    """Raise UsageError for a template that does not say which video and frame a file is of."""
    unknown = [name for name in re.findall(r"\{(\w*)\}", template) if name not in (*FIELDS, "split")]
    missing = [name for name in FIELDS if f"{{{name}}}" not in template]
    if unknown or missing:
        problem = f"has no {{{missing[0]}}}" if missing else f"{{{unknown[0]}}} is unknown"
        raise UsageError(
            f"{key}={template}: {problem}; write a path with {{video}} and {{frame}}, optionally {{split}} and *"
        )
    if template.startswith(("/", "~")) or ".." in template.split("/"):
        raise UsageError(f"{key}={template}: give a path below the data set's root")


def files(root: Path, template: str, split: str, suffixes: Collection[str]) -> dict[Frame, Path]:
    """Return the files that a template matches, by video and frame, unordered, of these suffixes in any case.

    Raise UnfitError for a folder that cannot be read, and for two files of one frame.
    """
    parts = [part for part in template.replace("{split}", split).split("/") if part not in ("", ".")]
    listed: dict[Frame, Path] = {}
    for path, values in walk(root, parts, {}):
        if path.suffix.lower() not in suffixes:
            continue
        frame = values["video"], values["frame"]
        if frame in listed:
            pair = " and ".join(sorted(shown(other) for other in (listed[frame], path)))
            raise UnfitError(f"{pair}: two files for one frame; keep one")
        listed[frame] = path
    return listed


def walk(folder: Path, parts: Sequence[str], values: dict[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """Yield the files below a folder that the parts of a template match, with what its fields stand for."""
    part, *rest = parts
    bound = WILD.sub(lambda match: values.get(match[0][1:-1], match[0]), part)
    if not WILD.search(bound):
        names: Iterator[tuple[str, dict[str, str]]] = iter([(bound, {})])
    else:
        pattern = expression(bound)
        try:
            entries = sorted(os.listdir(folder))
        except FileNotFoundError:
            return
        except NotADirectoryError:
            return
        except OSError as error:
            raise UnfitError(f"{shown(folder)}: {error.strerror}; complete the data") from error
        matches = ((name, pattern.fullmatch(name)) for name in entries if not name.startswith("."))
        names = ((name, match.groupdict()) for name, match in matches if match)
    for name, found in names:
        path = folder / name
        if rest:
            yield from walk(path, rest, {**values, **found})
        elif os.path.isfile(path):
            yield path, {**values, **found}


def expression(part: str) -> re.Pattern[str]:
    """Return a part of a template as a regular expression."""
    seen: set[str] = set()
    pieces = []
    for piece in WILD.split(part):
        name = piece[1:-1]
        if piece == "*":
            pieces.append(".*")
        elif WILD.fullmatch(piece):
            pieces.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+)")
            seen.add(name)
        else:
            pieces.append(re.escape(piece))
    return re.compile("".join(pieces))


def read_lines(path: Path, key: str) -> Lines:
    """Return the first word of each line of a list. Raise UnfitError for one that is missing, empty or no text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise UnfitError(f"{shown(path)}: no such list ({key})") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UnfitError(f"{shown(path)}: cannot be read: {reason}; write one name per line") from error
    names = tuple(dict.fromkeys(line.split()[0].lstrip("/") for line in lines if line.strip()))
    if not names:
        raise UnfitError(f"{shown(path)}: lists nothing; write one video, or VIDEO/FRAME, per line")
    return Lines(path, names)


def of_lines(lines: Lines, images: dict[Frame, Path], root: Path) -> list[Frame]:
    """Return the frames that a list names, in the order of its lines. Raise UnfitError for a line that names none."""
    by_name: dict[str, list[Frame]] = {}
    for frame, path in images.items():
        place = path.relative_to(root)
        names = (frame[0], "/".join(frame), str(place), str(place.with_suffix("")), path.name, path.stem)
        for name in dict.fromkeys(names):
            by_name.setdefault(name, []).append(frame)
    absent = [name for name in lines.names if name not in by_name and Path(name).name not in by_name]
    if absent:
        raise UnfitError(
            f"{shown(lines.path)}: names {absent[0]!r}, for which there is no image ({len(absent)} of "
            f"{len(lines.names)} lines); write one video, VIDEO/FRAME or image per line, or complete the data"
        )
    wanted = [frame for name in lines.names for frame in by_name.get(name) or by_name[Path(name).name]]
    return list(dict.fromkeys(wanted))


def of_patterns(text: str, images: dict[Frame, Path], key: str) -> list[Frame]:
    """Return the frames that patterns name, sorted: of a video, or of VIDEO/FRAME; those after a `!` are left out.

    Raise UnfitError for a pattern that nothing matches.
    """
    patterns = text.split()
    for pattern in patterns:
        if not any(matches(frame, pattern.removeprefix("!")) for frame in images):
            raise UnfitError(
                f"{key}={text}: {pattern} matches no video; write names of videos or VIDEO/FRAME, with * or ?"
            )
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    left_out = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return sorted(
        frame
        for frame in images
        if any(matches(frame, pattern) for pattern in wanted)
        and not any(matches(frame, pattern) for pattern in left_out)
    )


def matches(frame: Frame, pattern: str) -> bool:
    """Return whether a pattern names a frame or its video."""
    return fnmatchcase("/".join(frame) if "/" in pattern else frame[0], pattern)
