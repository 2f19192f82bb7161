"""Facets: the values of each metadata field, and how many documents have each.

Metadata is held in columns: each distinct value once, and its number for each document, so that a
filter is evaluated on values and not on documents, with the semantics of `filters.matches`.

Letters in shapes: n documents, v distinct values of a field.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from opengte.search.filters import (
    And,
    Condition,
    Filter,
    Not,
    Or,
    as_text,
    is_number,
    matches,
    parse_filter,
)
from opengte.search.parse.base import Scalar
from opengte.search.stores.base import Store
from opengte.search.stores.listing import DocumentHeader, list_documents, sample_by_id

MOST = 200_000  # documents; of more, a sample
VALUES = 50  # of a facet that are told
FIELDS = 40  # facets
LONGEST = 200  # characters of a value that can be chosen
FEW = 12  # distinct numbers up to which they are listed

Mask = npt.NDArray[np.bool_]
FacetKind = Literal["values", "numbers", "dates"]
_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:$|[T ])")


@dataclass(frozen=True, eq=False)
class FacetColumn:
    """A field: its distinct values, and the number of each document's value (n,), -1 for none."""

    values: list[Scalar]
    codes: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Facet:
    """What a field can be limited to.

    `values`: pairs of a value and how many documents have it, the most frequent first, and how many
    documents have others. `numbers` and `dates`: from `low` to `high`.
    """

    field: str
    kind: FacetKind
    documents: int
    values: tuple[tuple[Scalar, int], ...] = ()
    others: int = 0
    low: Scalar | None = None
    high: Scalar | None = None


class FacetIndex:
    """The documents of a store: ids, titles and metadata. Of more than MOST, a sample."""

    def __init__(self, documents: Sequence[DocumentHeader], total: int) -> None:
        self.ids = [one.id for one in documents]
        self.titles = [one.title for one in documents]
        self.total = total
        self.places = {name: place for place, name in enumerate(self.ids)}
        self.columns = _columns([one.metadata for one in documents])

    @classmethod
    def of(cls, store: Store, most: int = MOST) -> "FacetIndex":
        """Read a store."""
        return cls(*sample_by_id(list_documents(store), most))

    def __len__(self) -> int:
        return len(self.ids)

    def fitting(self, where: Filter | None) -> Mask:
        """Return which documents fit, (n,): the same ones as `fits` says."""
        match where:
            case None:
                return np.ones(len(self), bool)
            case And(parts):
                return self._joined(parts, every=True)
            case Or(parts):
                return self._joined(parts, every=False)
            case Not(part):
                return ~self.fitting(part)
        return self._holds(where)

    def _joined(self, parts: Sequence[Filter], *, every: bool) -> Mask:
        found = np.full(len(self), every)
        for part in parts:
            found = found & self.fitting(part) if every else found | self.fitting(part)
        return found

    def _holds(self, condition: Condition) -> Mask:
        column = self.columns.get(condition.field)
        missing = matches(condition, {})
        if column is None:
            return np.full(len(self), missing)
        held = [matches(condition, {condition.field: value}) for value in column.values]
        return np.asarray(np.array([*held, missing], bool)[column.codes])  # -1 is the last

    def facets(self, where: Mapping[str, Any] | None = None) -> list[Facet]:
        """Return the facets of the documents that fit; a field is not limited by itself."""
        limits = dict(where or {})
        everything = self.fitting(parse_filter(limits))
        found: list[Facet] = []
        for name, column in sorted(self.columns.items()):
            kind = _kind(column, len(self))
            if kind is None or name.startswith("$") or len(found) == FIELDS:
                continue  # `$` begins the operators of filters
            inside = everything
            if name in limits:
                inside = self.fitting(parse_filter({k: v for k, v in limits.items() if k != name}))
            found.append(_facet(name, kind, column, inside))
        return found


def _columns(records: Sequence[Mapping[str, Scalar]]) -> dict[str, FacetColumn]:
    known: dict[str, dict[tuple[type, Scalar], int]] = {}
    codes: dict[str, npt.NDArray[np.int32]] = {}
    for place, record in enumerate(records):
        for name, value in record.items():
            if name not in known:
                known[name], codes[name] = {}, np.full(len(records), -1, np.int32)
            numbers = known[name]
            codes[name][place] = numbers.setdefault((type(value), value), len(numbers))
    return {
        name: FacetColumn([value for _, value in numbers], codes[name])
        for name, numbers in known.items()
    }


def _kind(column: FacetColumn, documents: int) -> FacetKind | None:
    """Return what a facet of a column is, None for a column that divides nothing."""
    values, distinct = column.values, len(column.values)
    if distinct > FEW and all(is_number(value) for value in values):
        return "numbers"
    if distinct > FEW and all(isinstance(v, str) and _DATE.match(v) for v in values):
        return "dates"
    if distinct < 2 and (column.codes >= 0).all():
        return None
    having = int((column.codes >= 0).sum())
    if 2 * distinct > having or any(len(as_text(v)) > LONGEST for v in values):
        return None
    return "values"


def _facet(name: str, kind: FacetKind, column: FacetColumn, inside: Mask) -> Facet:
    codes = column.codes[inside & (column.codes >= 0)]
    if kind != "values":
        present: list[Any] = [column.values[code] for code in np.unique(codes).tolist()]
        ordered = sorted(present)
        low, high = (ordered[0], ordered[-1]) if ordered else (None, None)
        if kind == "dates" and ordered:
            low, high = str(low)[:10], str(high)[:10]
        return Facet(name, kind, len(codes), low=low, high=high)
    counts = np.bincount(codes, minlength=len(column.values))
    order = sorted(
        np.flatnonzero(counts).tolist(), key=lambda c: (-counts[c], as_text(column.values[c]))
    )
    told = tuple((column.values[code], int(counts[code])) for code in order[:VALUES])
    others = len(codes) - sum(count for _, count in told)
    return Facet(name, kind, len(codes), told, others)
