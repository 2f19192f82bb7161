"""Results on stdout: JSON Lines for programs, aligned columns for people."""

import json
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

import click


def print_json(value: dict[str, Any]) -> None:
    """Print one object of JSON Lines, in ASCII so that no terminal or pipe can spoil it."""
    click.echo(json.dumps(value))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns: numbers to the right, the rest to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    numeric = [isinstance(value, int) for value in next(iter(rows), ())]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for line in [list(header), *cells]:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric or [False] * len(line), strict=True)
        ]
        click.echo("  ".join(padded).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None or value == "" else str(value)


def one_line(text: str, indent: int = 0) -> str:
    """Fit a text into the rest of a line of the terminal."""
    room = max(20, shutil.get_terminal_size().columns - indent)
    text = " ".join(text.split())
    return text if len(text) <= room else text[: room - 1] + "…"


def round_score(value: float) -> float:
    """Round a score to the digits that float32 has."""
    return round(float(value), 6)


def format_bytes(count: int) -> str:
    """Return a number of bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"
