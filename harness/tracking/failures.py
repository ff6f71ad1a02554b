"""Failures of a store as one line for people, without passwords. Imports no mlflow."""

import re
import sqlite3
from collections.abc import Callable
from functools import update_wrapper
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from harness.common.errors import UnfitError
from harness.common.redaction import redact
from harness.tracking.opening import DATABASE, PERMISSION, error_message, imported

P = ParamSpec("P")
R = TypeVar("R")


class Addressed(Protocol):
    """What a store says of itself."""

    uri: str

    @property
    def remedy(self) -> str:
        """What a person can do when it fails."""


S = TypeVar("S", bound=Addressed)


def speaks(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Turn failures of MLflow, its database, its server or its artefact store into an UnfitError of one line."""

    def wrapped(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except failures() as error:
            what = error_message(error)
            remedy = PERMISSION if re.search(r"\b403\b|PERMISSION_DENIED", what) else self.remedy
            raise UnfitError(f"MLflow at {redact(self.uri)}: {method.__name__}: {what}; {remedy}") from error

    update_wrapper(wrapped, method)
    return wrapped


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions that MLflow and its libraries raise."""
    theirs = ("mlflow.exceptions.MlflowException", "requests.exceptions.RequestException")
    return (OSError, sqlite3.Error, ImportError, *imported(*DATABASE, *theirs))
