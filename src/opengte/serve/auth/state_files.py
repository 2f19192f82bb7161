"""Errors of the SQLite files in a state folder, as one line that says what to do."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opengte.errors import InputError, OpenGTEError

# what reading a damaged file raises: SQLite's errors, and values that do not fit the columns
DAMAGE = (sqlite3.Error, OSError, ValueError, TypeError, LookupError)


@contextmanager
def plain_errors(path: Path, what: str, remedy: str) -> Iterator[None]:
    """Raise an InputError that names the file for whatever is wrong with it."""
    try:
        yield
    except OpenGTEError:
        raise
    except DAMAGE as error:
        raise InputError(
            f"state_dir: {path} cannot be used as the file of {what}: {error}. {remedy}"
        ) from error
