"""Errors as messages on stderr and exit statuses.

An `OpenGTEError` or `OSError` is reported without a traceback, unless GTE_DEBUG=1; any other
exception is a bug and keeps its traceback.
"""

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

import click

from opengte.errors import NotFoundError, OpenGTEError, OpenGTEWarning

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
NO_READER = 141  # 128 + SIGPIPE

HINTS: dict[type[OpenGTEError], str] = {NotFoundError: "`gte models` lists the known models"}


@contextmanager
def report_errors() -> Iterator[None]:
    """Turn failures into messages and exit statuses, and warnings into lines on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may not know a character
    try:
        with _plain_warnings():
            yield
    except BrokenPipeError:
        _drop_stdout()
        raise click.exceptions.Exit(NO_READER) from None
    except KeyboardInterrupt as interruption:
        click.echo("interrupted", err=True)
        _hint(interruption)
        raise click.exceptions.Exit(INTERRUPTED) from None
    except (OpenGTEError, OSError) as error:
        if is_debugging():
            raise
        print_error(error)
        raise click.exceptions.Exit(FAILED) from None


def is_debugging() -> bool:
    """Return whether the user asked for tracebacks."""
    return os.environ.get("GTE_DEBUG", "") not in ("", "0")


def print_error(error: Exception) -> None:
    """Print an error, and how to get past it where that is known."""
    click.echo(f"error: {_message(error)}", err=True)
    _hint(error)


def _hint(error: BaseException) -> None:
    notes = [*getattr(error, "__notes__", ())]
    notes += [hint for kind, hint in HINTS.items() if isinstance(error, kind)]
    for note in notes:
        click.echo(f"hint: {note}", err=True)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f": `{error.filename}`" if error.filename else ""
        return f"{error.strerror}{place}"
    return str(error) or type(error).__name__


@contextmanager
def _plain_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("once", OpenGTEWarning)
        warnings.showwarning = _show_warning
        yield


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    click.echo(f"warning: {message}", err=True)


def _drop_stdout() -> None:
    """Send what is still buffered to nowhere, so that the flush at exit cannot fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # stdout is not a file: a test's buffer
        pass
