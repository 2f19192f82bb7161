"""Read logs of queries: text, tables, JSON Lines, User Behavior Insights, OpenTelemetry spans.

Every row is kept or reported with its place and the reason. A JSON Lines file may mix all kinds of
objects: `{"query": ...}`, queries and events of User Behavior Insights (UBI), and spans of
OpenTelemetry with the attributes of OpenInference, one a line or in batches as OTLP writes them.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from opengte.delimited import BadRow, decoded_lines, read_delimited
from opengte.errors import InputError

TABLES = (".csv", ".tsv")
JSON_LINES = (".jsonl", ".ndjson", ".json")
MAX_ROWS = 1_000_000  # of a log
MAX_CHARACTERS = 8_000  # of a query
QUERY = ("query", "user_query", "question", "text", "q", "prompt")
ID = ("query_id", "query-id", "qid", "id")
SPAN_QUERY = ("gen_ai.retrieval.query.text", "input.value")
CLICKS = ("click", "item_click", "add_to_cart", "purchase", "open", "cite")
YES, NO = ("true", "yes", "1", "good", "up"), ("false", "no", "0", "bad", "down")


@dataclass(frozen=True)
class LoggedQuery:
    """A query that somebody asked, and what is known of it.

    shown are documents, best first; clicked those that were opened or cited; answered is a mark
    that somebody gave, None without one.
    """

    text: str
    place: str
    id: str = ""
    shown: tuple[str, ...] = ()
    clicked: tuple[str, ...] = ()
    answered: bool | None = None


@dataclass(frozen=True)
class RowProblem:
    """A row of a log that is not used, and why."""

    place: str
    reason: str


@dataclass(frozen=True)
class QueryLog:
    """The queries of a log, in order, and the rows that are not used."""

    queries: tuple[LoggedQuery, ...]
    problems: tuple[RowProblem, ...]

    def summary(self) -> list[tuple[str, int, str]]:
        """Return each reason for which rows are not used, how many, and the first place."""
        counts = Counter(one.reason for one in self.problems)
        first = {one.reason: one.place for one in reversed(self.problems)}
        return [(reason, count, first[reason]) for reason, count in counts.most_common()]


@dataclass(frozen=True)
class _Event:
    """A click of UBI on a document of a query that another row has."""

    query: str
    document: str
    place: str


_Row = LoggedQuery | RowProblem | _Event


def read_log(path: str | Path) -> QueryLog:
    """Read a log; InputError if it does not exist, is too long, or has no query at all.

    >>> from pathlib import Path
    >>> _ = Path("log.jsonl").write_text('{"query": "undo a commit"}\\n{"page": 2}\\n')
    >>> log = read_log("log.jsonl")
    >>> log.queries[0].text, log.problems[0].place
    ('undo a commit', 'log.jsonl:2')
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"the log `{path}` is no file: expected a file of queries")
    suffix = file.suffix.lower()
    rows = _table(file) if suffix in TABLES else _lines(file, as_json=suffix in JSON_LINES)
    log = _joined(rows, file.name)
    if not log.queries:
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count, _ in log.summary()[:3])
        raise InputError(f"the log `{path}` has no query: {reasons or 'it is empty'}")
    return log


def _joined(rows: Iterator[_Row], name: str) -> QueryLog:
    """Give queries the clicks of their events."""
    queries: list[LoggedQuery] = []
    problems: list[RowProblem] = []
    events: list[_Event] = []
    for row in rows:
        if isinstance(row, LoggedQuery):
            queries.append(row)
        elif isinstance(row, RowProblem):
            problems.append(row)
        else:
            events.append(row)
        if len(queries) + len(problems) + len(events) > MAX_ROWS:
            raise InputError(f"the log `{name}` has more than {MAX_ROWS:,} rows: give a part of it")
    places = {one.id: number for number, one in enumerate(queries) if one.id}
    for event in events:
        number = places.get(event.query)
        if number is None:
            problems.append(RowProblem(event.place, "an event of a query that is not in the log"))
        else:
            one = queries[number]
            queries[number] = replace(one, clicked=(*one.clicked, event.document))
    return QueryLog(tuple(queries), tuple(problems))


def _table(path: Path) -> Iterator[_Row]:
    quoted = path.suffix.lower() == ".csv"
    with path.open("rb") as stream:
        rows = read_delimited(stream, path.name, quoted=quoted, delimiter=None if quoted else "\t")
        for row in rows:
            place = f"{path.name}:{row.line}"
            if isinstance(row, BadRow):
                yield RowProblem(place, row.reason)
            elif row.problem:
                yield RowProblem(place, row.problem)
            else:
                yield from _of_object(row.values, place)


def _lines(path: Path, *, as_json: bool) -> Iterator[_Row]:
    with path.open("rb") as stream:
        for number, line, reason in decoded_lines(stream, path.name):
            place = f"{path.name}:{number}"
            if line is None:
                yield RowProblem(place, reason)
            elif not line.strip():
                continue
            elif as_json:
                yield from _of_json(line, place)
            else:
                yield _query(line, place)


def _of_json(line: str, place: str) -> Iterator[_Row]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        yield RowProblem(place, "is not JSON: expected one object on each line")
        return
    if isinstance(value, str):
        yield _query(value, place)
    elif not isinstance(value, dict):
        yield RowProblem(place, f"holds a {type(value).__name__}, expected an object")
    elif "resourceSpans" in value:
        yield from _of_batch(value, place)
    elif "attributes" in value and ("name" in value or "span_id" in value or "spanId" in value):
        yield _of_span(_attributes(value["attributes"]), place)
    else:
        yield from _of_object(value, place)


def _of_object(value: Mapping[str, Any], place: str) -> Iterator[_Row]:
    """Yield what a row of a table, an object or a record of UBI says."""
    action = value.get("action_name", value.get("action"))
    text = _first(value, QUERY)
    if action is not None and not isinstance(text, str):
        yield _event(value, str(action), place)
        return
    if text is None:
        yield RowProblem(place, f"has no query: expected one of the fields {', '.join(QUERY[:4])}")
        return
    found = _query(text, place)
    if isinstance(found, LoggedQuery):
        marks = value.get("answered", value.get("helpful"))
        response = value.get("query_response_hit_ids")
        found = replace(
            found,
            id=str(_first(value, ID) or ""),
            shown=_names(value.get("shown", response)),
            clicked=_names(value.get("clicked", value.get("cited"))),
            answered=_mark(marks),
        )
    yield found


def _event(value: Mapping[str, Any], action: str, place: str) -> _Row:
    if action.lower() not in CLICKS:
        return RowProblem(place, f"an event `{action}`, which says nothing of relevance")
    inner = _mapping(_mapping(value.get("event_attributes")).get("object"))
    document = value.get("object_id", inner.get("object_id"))
    query = value.get("query_id")
    if not isinstance(document, str | int) or not isinstance(query, str | int):
        return RowProblem(place, "an event without `query_id` and the `object_id` of a document")
    return _Event(str(query), str(document), place)


def _of_batch(value: Mapping[str, Any], place: str) -> Iterator[_Row]:
    """Yield the queries of spans as OTLP writes them."""
    number = 0
    for resource in _objects(value.get("resourceSpans")):
        for scope in _objects(resource.get("scopeSpans")):
            for span in _objects(scope.get("spans")):
                number += 1
                yield _of_span(_attributes(span.get("attributes")), f"{place}, span {number}")


def _of_span(attributes: Mapping[str, Any], place: str) -> _Row:
    kind = str(attributes.get("openinference.span.kind", "")).upper()
    operation = str(attributes.get("gen_ai.operation.name", ""))
    if kind != "RETRIEVER" and operation != "retrieval":
        return RowProblem(place, f"a span of the kind {kind or operation or 'unknown'}: no search")
    text = _first(attributes, SPAN_QUERY)
    if isinstance(text, str) and "json" in str(attributes.get("input.mime_type", "")):
        text = _unwrapped(text)
    found = _query(text, place)
    if isinstance(found, RowProblem):
        return found
    shown, number = [], 0
    while (name := attributes.get(f"retrieval.documents.{number}.document.id")) is not None:
        shown.append(str(name))
        number += 1
    return replace(found, shown=tuple(shown))


def _attributes(value: Any) -> dict[str, Any]:
    """Return attributes by their dotted names, from OTLP's list or nested objects."""
    if isinstance(value, list):
        pairs = ((one.get("key"), _mapping(one.get("value"))) for one in _objects(value))
        return {str(key): next(iter(held.values()), None) for key, held in pairs}
    return dict(_flat("", value)) if isinstance(value, dict) else {}


def _flat(name: str, value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    inner: Sequence[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))
    if not inner or depth > 8:
        yield name, value
    for key, one in inner if depth <= 8 else ():
        yield from _flat(f"{name}.{key}" if name else str(key), one, depth + 1)


def _unwrapped(text: str) -> Any:
    """Return the query in the JSON of a span's input."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _first(value, QUERY) if isinstance(value, dict) else value


def _query(text: Any, place: str) -> LoggedQuery | RowProblem:
    if not isinstance(text, str):
        return RowProblem(place, f"the query is a {type(text).__name__}, expected a text")
    if not text.strip():
        return RowProblem(place, "the query is empty")
    if len(text) > MAX_CHARACTERS:
        return RowProblem(place, f"the query has more than {MAX_CHARACTERS:,} characters")
    return LoggedQuery(" ".join(text.split()), place)


def _mark(value: Any) -> bool | None:
    word = str(value).strip().lower()
    return True if word in YES else False if word in NO else None


def _names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(";") if part.strip()]
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


def _first(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
