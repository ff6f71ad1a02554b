"""What data sets share whose videos are files: the digest of a split's list, recordings, the expected lengths."""

import hashlib
import json
import re
from abc import ABC, abstractmethod
from typing import Any

from harness.common.errors import UnfitError, UsageError


class Listed(ABC):
    """Videos by lists; its Config has `recording` and `expect_SPLIT`. Raise UsageError for a wrong `recording`."""

    def __init__(self, config: Any, name: str) -> None:
        self.config = config
        self._recording = compile_recording(config.recording, f"data.{name}.recording")

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names of labels 0..K-1."""

    @abstractmethod
    def videos(self, split: str) -> tuple[str, ...]:
        """Return the names of the split's videos, in its order."""

    def digest(self, split: str) -> str | None:
        """Return sha256 of the split's videos, in their order, and the class names; the same wherever the data lies."""
        content = json.dumps([self.videos(split), self.classes])
        return hashlib.sha256(content.encode()).hexdigest()

    def unit(self, video: str) -> str:
        """Return the recording that `recording` names; the video itself without it, or if it does not match."""
        match = self._recording.match(video) if self._recording else None
        return match[1] or video if match else video

    def planned(self, split: str) -> int:
        """Return the number of the split's videos; the expected one where they cannot be listed."""
        try:
            return len(self.videos(split))
        except UnfitError:
            return int(getattr(self.config, f"expect_{split}"))


def compile_recording(pattern: str | None, key: str) -> re.Pattern[str] | None:
    """Return the regular expression that names a recording. Raise UsageError unless it has exactly one group."""
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"{key}={pattern}: not a regular expression: {error}") from error
    if compiled.groups != 1:
        raise UsageError(f"{key}={pattern}: has {compiled.groups} groups, needs one for the recording")
    return compiled
