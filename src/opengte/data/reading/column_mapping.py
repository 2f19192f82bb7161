"""Which column is the query, which the positive: as given, or recognised by well-known names."""

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from opengte.data.examples import Example, Origin, SourceKind, UnusableRow
from opengte.errors import InputError

# a query and its positive, as published data sets call them; the first that fits is taken
PAIRS: tuple[tuple[str, str], ...] = (
    *(("query", name) for name in ("positive", "positives", "pos", "positive_passages")),
    *(("anchor", name) for name in ("positive", "positives", "pos")),
    *(("query", name) for name in ("document", "passage", "answer", "response", "text")),
    *(("question", name) for name in ("answer", "positive", "document", "passage", "context")),
    *(("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("sentence_a", "sentence_b")),
    *(("text1", "text2"), ("text_a", "text_b"), ("premise", "hypothesis")),
    *(("title", name) for name in ("abstract", "body", "text", "content", "document")),
    *(("summary", "document"), ("claim", "evidence"), ("term", "definition")),
    *(("docstring", "code"), ("source", "target")),
)
NEGATIVES = ("negative", "negatives", "neg", "hard_negatives", "negative_passages")
NUMBERED = re.compile(r"(hard_)?neg(ative)?_\d+")
SCORES = (("scores",), ("score",), ("similarity_score",), ("similarity",))
SCORE_PARTS = ("pos_scores", "neg_scores")
LABELS = ("label", "labels", "label_text", "category", "intent")
TEXTS = ("text", "content", "sentence")


@dataclass(frozen=True)
class ColumnMapping:
    """Names of the columns that hold each part of an example; a dot looks inside an object.

    `positive`, `negative` and `score` may be several columns, which are concatenated. A source has
    either query and positive, or text (with a label, or raw).

    >>> ColumnMapping(query="question", positive=("answer",)).kind
    'pairs'
    >>> ColumnMapping(text="body").kind
    'texts'
    """

    query: str | None = None
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    score: tuple[str, ...] = ()
    label: str | None = None
    text: str | None = None

    @property
    def kind(self) -> SourceKind:
        """Return the kind of the examples."""
        if self.text is not None:
            return "texts" if self.label is None else "labelled"
        return "scored" if self.score and not self.negative and len(self.positive) == 1 else "pairs"

    @property
    def names(self) -> tuple[str, ...]:
        """Return all columns that are read."""
        single = (self.query, self.text, self.label)
        return (*(name for name in single if name), *self.positive, *self.negative, *self.score)

    def __str__(self) -> str:
        """Say which column is what."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        named = ((name, value if isinstance(value, tuple) else (value,)) for name, value in values)
        return ", ".join(f"{name}={'+'.join(v)}" for name, v in named if v and v[0])


def resolve_columns(
    given: ColumnMapping, rows: Sequence[Mapping[str, Any]], found: Sequence[str]
) -> ColumnMapping:
    """Return a mapping whose missing columns are recognised by name.

    rows are the first rows of the file, found all its columns. Raises InputError for a column that
    does not exist, or if query and positive cannot be recognised.
    """
    for name in given.names:
        if name not in found and name.split(".")[0] not in found:
            raise InputError(_unknown(name, found))
    if given.text is not None:
        if given.query or given.positive:
            raise InputError(
                f"text={given.text!r} is for raw or labelled texts and excludes query and positive."
                " Give either."
            )
        return given
    if not given.query and not given.positive:
        recognised = _pair(found) or _text(given, found, rows)
        if recognised is None and len(found) == 2 and all(_is_text(rows, n) for n in found):
            recognised = ColumnMapping(query=found[0], positive=(found[1],))
        if recognised is None:
            raise InputError(_ambiguous(found))
        kept = {f.name: getattr(given, f.name) for f in fields(given) if getattr(given, f.name)}
        given = replace(recognised, **kept)
    if given.text is None:
        given = _completed(given, found, rows)
    return given


def example_from_record(
    record: Mapping[str, Any], columns: ColumnMapping, origin: Origin
) -> Example | UnusableRow:
    """Return a row's example, or what is wrong with it."""
    try:
        if columns.text is not None:
            text = _string(record, columns.text)
            label = None if columns.label is None else _label(record, columns.label)
            return Example(origin, text, () if label is None else (text,), label=label)
        assert columns.query is not None
        query = _string(record, columns.query)
        positives = _strings(record, columns.positive)
        negatives = _strings(record, columns.negative, optional=True)
        if not positives:
            raise ValueError(f"`{'+'.join(columns.positive)}` has no text")
        scores = _scores(record, columns.score, len(positives) + len(negatives))
        return Example(origin, query, positives, negatives, scores)
    except ValueError as error:
        return UnusableRow(origin, str(error))


def _pair(found: Sequence[str]) -> ColumnMapping | None:
    return next(
        (ColumnMapping(query=q, positive=(p,)) for q, p in PAIRS if q in found and p in found), None
    )


def _text(
    given: ColumnMapping, found: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> ColumnMapping | None:
    text = next((name for name in TEXTS if name in found and _is_text(rows, name)), None)
    label = given.label or next((name for name in LABELS if name in found), None)
    return None if text is None else ColumnMapping(text=text, label=label)


def _completed(
    columns: ColumnMapping, found: Sequence[str], rows: Sequence[Mapping[str, Any]]
) -> ColumnMapping:
    """Add negatives and scores that are recognised."""
    if not columns.query or not columns.positive:
        missing = "positive" if columns.query else "query"
        raise InputError(
            f"{missing} is not given; expected one of the columns {_listed(found)}. Name both "
            "query and positive."
        )
    used = {columns.query, *columns.positive}
    negative = columns.negative or tuple(
        name
        for name in found
        if name not in used and (name in NEGATIVES or NUMBERED.fullmatch(name))
    )
    score = columns.score or next((s for s in SCORES if s[0] in found and s[0] not in used), ())
    if not score and SCORE_PARTS[0] in found:
        score = tuple(name for name in SCORE_PARTS if name in found)
    if not score and "label" in found and not negative and _is_number(rows, "label"):
        score = ("label",)
    return replace(columns, negative=negative, score=score)


def _is_text(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    return all(isinstance(row.get(name), str) for row in rows)


def _is_number(rows: Sequence[Mapping[str, Any]], name: str) -> bool:
    try:
        return bool(rows) and all(math.isfinite(float(row[name])) for row in rows)
    except (KeyError, TypeError, ValueError):
        return False


def _unknown(name: str, found: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, found, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(f'`{one}`' for one in near)}?" if near else ""
    return f"column `{name}` is not there; the columns are {_listed(found)}.{hint}"


def _ambiguous(found: Sequence[str]) -> str:
    if len(found) == 1:
        return (
            f"there is one column, `{found[0]}`, and a pair needs two. Name it as the text column "
            "if these are raw texts."
        )
    return (
        f"which of the columns {_listed(found)} are the query and the positive cannot be told from "
        "their names. Name them."
    )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "(none)"


def _look(record: Mapping[str, Any], name: str) -> Any:
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise ValueError(f"has no `{name}`")
        value = value[part]
    return value


def _string(record: Mapping[str, Any], name: str) -> str:
    value = _look(record, name)
    if not isinstance(value, str):
        raise ValueError(f"`{name}` is {json_type_name(value)}; expected a string")
    return value


def _label(record: Mapping[str, Any], name: str) -> str:
    value = _look(record, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(
            f"`{name}` is {json_type_name(value)}; expected a label, a string or an integer"
        )
    return str(value)


def _strings(
    record: Mapping[str, Any], names: Iterable[str], optional: bool = False
) -> tuple[str, ...]:
    """Return the texts of columns that hold a text or a list of them, without empty ones."""
    texts: list[str] = []
    for name in names:
        try:
            value = _look(record, name)
        except ValueError:
            if optional:
                continue
            raise
        if value is None and optional:
            continue
        for one in value if isinstance(value, list) else [value]:
            texts.append(_passage(one, name))
    return tuple(text for text in texts if text and not text.isspace())


def _passage(value: Any, name: str) -> str:
    """Return a text given as a string, or as an object with `text` and optionally `title`."""
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        title = value.get("title")
        return f"{title} {value['text']}" if isinstance(title, str) and title else value["text"]
    if not isinstance(value, str):
        raise ValueError(
            f"`{name}` holds {json_type_name(value)}; expected a string or a list of strings"
        )
    return value


def _scores(
    record: Mapping[str, Any], names: Sequence[str], documents: int
) -> tuple[float, ...] | None:
    if not names:
        return None
    numbers: list[float] = []
    for name in names:
        value = _look(record, name)
        numbers += [_number(one, name) for one in (value if isinstance(value, list) else [value])]
    if len(numbers) != documents:
        raise ValueError(
            f"`{'+'.join(names)}` has {len(numbers)} numbers for {documents} positives and "
            "negatives; expected one for each"
        )
    return tuple(numbers)


def _number(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        shown = repr(value) if isinstance(value, str | int | float) else json_type_name(value)
        raise ValueError(f"`{name}` is {shown}; expected a finite number")
    return number


def json_type_name(value: object) -> str:
    """Return a value's type as JSON names it, with an article."""
    names = {dict: "an object", list: "an array", str: "a string", bool: "a boolean"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"of type {type(value).__name__}")
