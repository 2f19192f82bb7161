"""Filters as Qdrant has them, over two groups of fields: as they are written, and as numbers.

The classes of `qdrant-client` and of Qdrant Edge have the same names and nearly the same arguments.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from opengte.search.filters import (
    And,
    Condition,
    Filter,
    Not,
    Or,
    Value,
    as_number,
    as_text,
    is_number,
)

LARGEST = 1.7e308
_ODD = re.compile(r"[^A-Za-z0-9]")
_RANGES = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
Distinct = Callable[[str], list[str]]  # a field -> the texts that it has


def filter_fields(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return what points keep for filters."""
    kept: dict[str, Any] = {text_field(name): as_text(value) for name, value in metadata.items()}
    for name, value in metadata.items():
        number = as_number(value)
        if number is not None and math.isfinite(number):
            kept[number_field(name)] = _float(number)
    return kept


def text_field(name: str) -> str:
    """Return the field of what is written in a field of the metadata."""
    return f"text_{_plain(name)}"


def number_field(name: str) -> str:
    """Return the field of the number that a field of the metadata is."""
    return f"number_{_plain(name)}"


def _plain(name: str) -> str:
    return _ODD.sub(lambda match: f"_{ord(match[0]):x}_", name)


class FilterTranslator:
    """Builds conditions out of the classes of `models`; `range_` is the one for numbers."""

    def __init__(self, models: Any, range_: Any, distinct: Distinct) -> None:
        self._models = models
        self._range = range_
        self._distinct = distinct

    def first_windows(self, where: Filter | None = None) -> Any:
        """Return the filter of the first windows of documents, one for each."""
        parts = [self.equal("window", 0), *([self.of(where)] if where is not None else [])]
        return self._models.Filter(must=parts)

    def any_of(self, field: str, values: list[str], *more: Any) -> Any:
        """Return the filter of points with one of these values."""
        return self._models.Filter(must=[self._one_of(field, values), *more])

    def equal(self, field: str, value: str | int) -> Any:
        """Return the condition that a field has a value."""
        match = self._models.MatchValue(value=value)
        return self._models.FieldCondition(key=field, match=match)

    def other(self, field: str, value: str) -> Any:
        """Return the condition that a field does not have a value."""
        return self._models.Filter(must_not=[self.equal(field, value)])

    def whole(self, where: Filter | None) -> Any:
        """Return a filter, None of none."""
        return None if where is None else self._models.Filter(must=[self.of(where)])

    def of(self, filter_: Filter) -> Any:
        """Return the condition of a filter."""
        match filter_:
            case And(parts):
                return self._models.Filter(must=[*map(self.of, parts), self._always()])
            case Or(parts):
                return self._either([self.of(part) for part in parts])
            case Not(part):
                return self._models.Filter(must_not=[self.of(part)])
        return self._condition(filter_)

    def _condition(self, one: Condition) -> Any:
        value = one.value
        if isinstance(value, tuple):
            found = self._either([self._same(one.field, single) for single in value])
            return self._models.Filter(must_not=[found]) if one.operator == "not in" else found
        if one.operator == "=":
            return self._same(one.field, value)
        if one.operator == "!=":
            return self._models.Filter(must_not=[self._same(one.field, value)])
        if one.operator in ("starts", "contains"):
            return self._part(text_field(one.field), one.operator, as_text(value))
        if is_number(value):
            if math.isnan(value):  # type: ignore[arg-type]
                return self._never()
            limits = self._range(**{_RANGES[one.operator]: _float(value)})  # type: ignore[arg-type]
            return self._models.FieldCondition(key=number_field(one.field), range=limits)
        return self._ordered(one, as_text(value))

    def _same(self, field: str, value: Value) -> Any:
        if not is_number(value):
            return self.equal(text_field(field), as_text(value))
        if not math.isfinite(value):  # type: ignore[arg-type]
            return self._never()
        number = _float(value)  # type: ignore[arg-type]
        limits = self._range(gte=number, lte=number)
        return self._models.FieldCondition(key=number_field(field), range=limits)

    def _part(self, field: str, operator: str, text: str) -> Any:
        if not text:
            return self._models.Filter(must_not=[self._empty(field)])
        match = (
            self._models.MatchPrefix(prefix=text)
            if operator == "starts"
            else self._models.MatchSubstring(substring=text)
        )
        return self._models.FieldCondition(key=field, match=match)

    def _ordered(self, one: Condition, value: str) -> Any:
        """Compare texts by their order, which Qdrant does not: ask for each that there is."""
        field = text_field(one.field)
        tests = {"<": str.__lt__, "<=": str.__le__, ">": str.__gt__, ">=": str.__ge__}
        fitting = [text for text in self._distinct(field) if tests[one.operator](text, value)]
        return self._one_of(field, fitting) if fitting else self._never()

    def _one_of(self, field: str, values: list[str]) -> Any:
        match = self._models.MatchAny(any=values)
        return self._models.FieldCondition(key=field, match=match)

    def _either(self, parts: list[Any]) -> Any:
        return self._models.Filter(should=[*parts, self._never()])

    def _empty(self, field: str) -> Any:
        return self._models.FieldCondition(key=field, is_empty=True)

    def _always(self) -> Any:
        return self._models.FieldCondition(key="window", range=self._range(gte=0.0))

    def _never(self) -> Any:
        return self.equal("window", -1)


def _float(value: float) -> float:
    try:
        return max(-LARGEST, min(LARGEST, float(value)))
    except OverflowError:
        return LARGEST if value > 0 else -LARGEST
