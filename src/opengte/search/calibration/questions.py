"""Read questions from a file, with or without the documents that answer them.

A text file has a question on each line. A JSON Lines file has `query`, and `relevant` where it is
known: ids or paths, or {id: grade}; an empty list says that nothing in the index answers. A CSV or
TSV file has a question and a document in its first two columns, a document a row; a row without a
document says that nothing answers.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opengte.delimited import BadRow, read_delimited
from opengte.errors import InputError
from opengte.search.index import Index
from opengte.search.names import named_documents

TABLES = (".csv", ".tsv")
MAX_QUESTIONS = 100_000  # questions of a file


@dataclass(frozen=True)
class Question:
    """A question, and the grades (above 0) of the documents that answer it; None: not known."""

    text: str
    relevant: Mapping[str, float] | None = None


def read_questions(path: str | Path) -> list[Question]:
    """Return the questions of a file; those of a table with several documents once."""
    file = Path(path)
    suffix = file.suffix.lower()
    reader: Callable[[Path], Iterator[Question]] = _lines
    if suffix in (".jsonl", ".ndjson"):
        reader = _json
    elif suffix in TABLES:
        reader = _table
    found: dict[str, Question] = {}
    try:
        for one in reader(file):
            before = found.get(one.text)
            found[one.text] = _joined(before, one) if before else one
            if len(found) > MAX_QUESTIONS:
                raise InputError(f"`{path}` has more than {MAX_QUESTIONS:,} questions")
    except UnicodeDecodeError as error:
        raise InputError(f"`{path}` is not UTF-8: {error.reason} at {error.start}") from None
    if not found:
        raise InputError(f"`{path}` has no questions: expected one on each line")
    known = [one.relevant is not None for one in found.values()]
    if any(known) and not all(known):
        first = next(one.text for one in found.values() if one.relevant is None)
        raise InputError(
            f"`{path}` says for {sum(known)} of {len(known)} questions what answers them, and not "
            f"for {first!r}: expected `relevant` in all of them, or in none"
        )
    return list(found.values())


def _joined(a: Question, b: Question) -> Question:
    if a.relevant is None or b.relevant is None:
        return a
    return Question(a.text, {**a.relevant, **b.relevant})


def _lines(path: Path) -> Iterator[Question]:
    with path.open(encoding="utf-8-sig") as file:
        for line in file:
            if line.strip():
                yield Question(line.strip())


def _json(path: Path) -> Iterator[Question]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield _question(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise InputError(f"`{path}`:{number}: {error}") from None


def _question(row: Any) -> Question:
    if isinstance(row, str):
        row = {"query": row}
    text = row.get("query") if isinstance(row, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"holds {row!r:.60}, expected an object with a text as `query`")
    relevant = row.get("relevant")
    if isinstance(relevant, str):
        relevant = [relevant]
    if isinstance(relevant, list):
        relevant = dict.fromkeys(relevant, 1.0)
    if relevant is None:
        return Question(text.strip())
    good = isinstance(relevant, dict) and all(
        isinstance(name, str) and isinstance(grade, int | float) for name, grade in relevant.items()
    )
    if not good:
        raise InputError(f"`relevant` is {relevant!r:.60}, expected ids, or grades by id")
    kept = {name: float(grade) for name, grade in relevant.items() if grade > 0}
    return Question(text.strip(), kept)


def _table(path: Path) -> Iterator[Question]:
    quoted = path.suffix.lower() == ".csv"
    with path.open("rb") as file:
        rows = read_delimited(file, str(path), quoted=quoted, delimiter=None if quoted else "\t")
        for row in rows:
            if isinstance(row, BadRow):
                raise InputError(f"`{path}`:{row.line} {row.reason}")
            cells = [cell.strip() for cell in row.values.values()]
            if len(cells) < 2 or not cells[0]:
                raise InputError(
                    f"`{path}`:{row.line} is {cells!r:.60}, expected a question and a document"
                )
            yield Question(cells[0], {cells[1]: 1.0} if cells[1] else {})


def resolve_documents(
    questions: list[Question], index: Index
) -> tuple[list[Question], list[tuple[str, str]]]:
    """Return questions whose documents are named by their ids in the index, and what is not there.

    A document may be named by its id, or by the path of its file: then every document of the file
    is right. A question none of whose documents is there is left out.
    """
    kept, missing = [], []
    for one in questions:
        found: dict[str, float] = {}
        for name, grade in (one.relevant or {}).items():
            ids = named_documents(index.store, index.roots, name)
            found |= dict.fromkeys(ids, grade)
            if not ids:
                missing.append((one.text, name))
        if found or not one.relevant:
            kept.append(one if one.relevant is None else replace(one, relevant=found))
    return kept, missing
