"""Logging of the server, set up for one test."""

import io
import logging
import warnings
from contextlib import contextmanager

from opengte.serve.observability import logs


@contextmanager
def logging_to_memory():
    """Yield a function that sets logging up and returns one that gives the lines so far."""
    root = logging.getLogger()
    before, level, show = root.handlers[:], root.level, warnings.showwarning
    levels = {name: logging.getLogger(name).level for name in ("opengte", "uvicorn")}
    stream = io.StringIO()

    def set_up(format="json", level="info"):
        logs.configure(format, level, stream)
        return lambda: stream.getvalue().splitlines()

    def restore():
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        for handler in before:
            root.addHandler(handler)
        root.setLevel(level)
        warnings.showwarning = show
        for name, value in levels.items():
            logging.getLogger(name).setLevel(value)

    try:
        yield set_up
    finally:
        restore()
