"""Files of training data written: JSON Lines, CSV or Parquet, complete or not at all."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from opengte.atomic_files import atomic_write
from opengte.data.examples import Example, UnusableRow
from opengte.data.reading import arrow
from opengte.data.reading.sources import ORIGIN, REASON
from opengte.errors import InputError

SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".parquet")


def check_output_path(path: Path) -> None:
    """Raise InputError for a file name without a known suffix."""
    if not path.name.lower().endswith(SUFFIXES):
        raise InputError(f"`{path}` has an unknown suffix; expected one of {', '.join(SUFFIXES)}")


def write_examples(path: Path, examples: Iterable[Example], negatives: int) -> None:
    """Write rows; a CSV file gets `negatives` columns of negatives."""
    check_output_path(path)
    with atomic_write(path) as part:
        if path.suffix == ".parquet":
            arrow.write_parquet(part, map(_lists, examples))
        else:
            _write_text(path, part, examples, negatives)


def write_rows(path: Path, rows: Iterable[Example | UnusableRow]) -> None:
    """Write a copy of rows with their origins, which `read_examples` gives back.

    Unusable rows come last, so that the columns are recognised from usable ones.
    """
    unusable: list[UnusableRow] = []
    with (
        atomic_write(path) as part,
        part.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        for row in rows:
            if isinstance(row, UnusableRow):
                unusable.append(row)
            else:
                file.write(_copied(row, example_record(row)))
        file.writelines(_copied(row, {REASON: row.reason}) for row in unusable)


def _copied(row: Example | UnusableRow, record: dict[str, Any]) -> str:
    origin = {ORIGIN: [row.origin.file, row.origin.row]}
    return json.dumps(record | origin, ensure_ascii=False) + "\n"


def _write_text(path: Path, part: Path, examples: Iterable[Example], negatives: int) -> None:
    with part.open("wb") as raw:
        # no time and no name inside, so that the same rows are the same bytes
        packed = gzip.GzipFile("", "wb", fileobj=raw, mtime=0) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(packed, "utf-8", "backslashreplace", newline="") as file:
            lines = _csv(examples, negatives) if path.suffix == ".csv" else map(_json, examples)
            for line in lines:
                file.write(line)


def example_record(example: Example) -> dict[str, Any]:
    """Return a row in the form that the readers accept."""
    if example.label is not None:
        return {"text": example.query, "label": example.label}
    if not example.positives:
        return {"text": example.query}
    row: dict[str, Any] = {"query": example.query}
    one = len(example.positives) == 1
    row["positive"] = example.positives[0] if one else list(example.positives)
    row["negative"] = list(example.negatives)
    if example.scores is not None:
        row["scores"] = list(example.scores)
    return row


def _lists(example: Example) -> dict[str, Any]:
    row = example_record(example)
    return row | {"positive": list(example.positives)} if "positive" in row else row


def _json(example: Example) -> str:
    return json.dumps(example_record(example), ensure_ascii=False) + "\n"


def _csv(examples: Iterable[Example], negatives: int) -> Iterator[str]:
    buffer = io.StringIO(newline="")
    writer: Callable[[Iterable[Any]], Any] = csv.writer(buffer).writerow
    names = [f"negative_{number}" for number in range(1, negatives + 1)]
    writer(["query", "positive", *names])
    for example in examples:
        if len(example.positives) != 1 or len(example.negatives) > negatives or example.scores:
            raise InputError(
                f"{example.origin} has {len(example.positives)} positives, "
                f"{len(example.negatives)} negatives{' and scores' if example.scores else ''}: "
                "CSV holds one positive and a fixed number of negatives. Write .jsonl or .parquet"
            )
        missing = negatives - len(example.negatives)
        writer([example.query, *example.positives, *example.negatives, *[""] * missing])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
