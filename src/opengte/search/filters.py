"""Filters: conditions on the metadata of documents.

A condition on a number compares numbers, and never matches a field that is not a number. One on a
text compares texts as they are written. A document without the field matches only `!=` and
`not in`.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from opengte.errors import InputError

Operator = Literal["=", "!=", "<", "<=", ">", ">=", "in", "not in", "starts", "contains"]
Value = str | int | float | bool
MAX_CONDITIONS = 1000  # conditions of one filter


@dataclass(frozen=True)
class Condition:
    """A field of the metadata, compared with a value (or several, for in and not in)."""

    field: str
    operator: Operator
    value: Value | tuple[Value, ...]

    def __post_init__(self) -> None:
        """Check the operator and the value; InputError if they do not fit together."""
        if self.operator not in get_args(Operator):
            raise InputError(
                f"the filter on `{self.field}` has the operator {self.operator!r}, expected one of "
                f"{', '.join(get_args(Operator))}"
            )
        many = self.operator in ("in", "not in")
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        if many != isinstance(self.value, tuple) or not all(
            isinstance(value, str | int | float) for value in values
        ):
            raise InputError(
                f"the filter on `{self.field}` compares with {self.value!r}, expected "
                f"{'a list of texts or numbers' if many else 'a text, a number, true or false'}"
            )


@dataclass(frozen=True)
class And:
    """Matches where all of these match."""

    of: tuple["Filter", ...]


@dataclass(frozen=True)
class Or:
    """Matches where at least one of these matches."""

    of: tuple["Filter", ...]


@dataclass(frozen=True)
class Not:
    """Matches where this does not."""

    of: "Filter"


Filter = Condition | And | Or | Not

_TEXT = re.compile(r"\s*([^\s=!<>~^]+)\s*(!=|<=|>=|=|<|>|~|\^)\s*(.*)", re.DOTALL)
_SIGNS: dict[str, Operator] = {"~": "contains", "^": "starts"}
_NAMES: dict[str, Operator] = {
    "$eq": "=",
    "$ne": "!=",
    "$lt": "<",
    "$lte": "<=",
    "$gt": ">",
    "$gte": ">=",
    "$in": "in",
    "$nin": "not in",
    "$starts": "starts",
    "$contains": "contains",
}


def all_of(*filters: Filter | None) -> Filter | None:
    """Return a filter that matches where all of these match; None matches everything."""
    parts = tuple(one for one in filters if one is not None)
    return And(parts) if len(parts) > 1 else next(iter(parts), None)


def conditions(where: Filter | None) -> Iterator[Condition]:
    """Yield every condition of a filter."""
    match where:
        case And(parts) | Or(parts):
            for part in parts:
                yield from conditions(part)
        case Not(part):
            yield from conditions(part)
        case Condition():
            yield where


def parse_conditions(texts: Sequence[str]) -> Filter | None:
    """Return the filter of conditions such as `year>=2020`, `lang=de|fr`, `path^/notes`, joined.

    Signs: = != < <= > >= ~ (contains) ^ (starts with); values of = and != may be several, with |.
    """
    return all_of(*map(_condition, texts))


def _condition(text: str) -> Condition:
    match = _TEXT.fullmatch(text)
    if not match:
        raise InputError(
            f"the filter is {text!r}, expected FIELD SIGN VALUE, such as 'year>=2020' or 'lang=de'"
        )
    field, sign, value = match.groups()
    if sign in _SIGNS:
        return Condition(field, _SIGNS[sign], value)
    if sign in ("=", "!=") and "|" in value:
        several = tuple(_value(one) for one in value.split("|"))
        return Condition(field, "in" if sign == "=" else "not in", several)
    return Condition(field, sign, _value(value))  # type: ignore[arg-type]


def _value(text: str) -> Value:
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'"
    if quoted:
        return text[1:-1]
    if text in ("true", "false"):
        return text == "true"
    number = _number(text)
    return text if number is None else number


def parse_filter(where: Mapping[str, Any] | Filter | None) -> Filter | None:
    """Return the filter of a mapping: {"year": {"$gte": 2020}, "$or": [{"lang": "de"}, ...]}."""
    if where is None or isinstance(where, Condition | And | Or | Not):
        return where
    if not isinstance(where, Mapping):
        raise InputError(f"where is {where!r}, expected a mapping of fields to values")
    return all_of(*(_entry(str(key), value, 0) for key, value in where.items()))


def _entry(key: str, value: Any, depth: int) -> Filter:
    if depth > 16:
        raise InputError("the filter is nested more than 16 deep")
    if key in ("$and", "$or"):
        if not isinstance(value, Sequence) or isinstance(value, str) or len(value) > MAX_CONDITIONS:
            raise InputError(
                f"{key} has {value!r:.80}, expected a list of up to {MAX_CONDITIONS} filters"
            )
        parts = tuple(_all(one, depth + 1) for one in value)
        return And(parts) if key == "$and" else Or(parts)
    if key == "$not":
        return Not(_all(value, depth + 1))
    if key.startswith("$"):
        raise InputError(f"the filter has {key!r}, expected $and, $or, $not or a field")
    if not isinstance(value, Mapping):
        return Condition(key, "=", value)
    parts = tuple(_named(key, name, one) for name, one in value.items())
    return parts[0] if len(parts) == 1 else And(parts)


def _all(value: Any, depth: int) -> Filter:
    if not isinstance(value, Mapping):
        raise InputError(f"the filter has {value!r:.80}, expected a mapping of fields to values")
    return And(tuple(_entry(str(key), one, depth) for key, one in value.items()))


def _named(field: str, name: str, value: Any) -> Condition:
    if name not in _NAMES:
        raise InputError(f"the filter on `{field}` has {name!r}, expected {', '.join(_NAMES)}")
    several = tuple(value) if isinstance(value, list | tuple | set) else value
    return Condition(field, _NAMES[name], several)


def matches(where: Filter | None, metadata: Mapping[str, Any]) -> bool:
    """Return whether a document with this metadata matches; every store is tested against this."""
    match where:
        case None:
            return True
        case And(parts):
            return all(matches(part, metadata) for part in parts)
        case Or(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
    return _holds(where, metadata.get(where.field))


_ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _holds(condition: Condition, found: Any) -> bool:
    sign, value = condition.operator, condition.value
    if sign in ("in", "not in"):
        assert isinstance(value, tuple)
        return any(_equal(found, one) for one in value) == (sign == "in")
    assert not isinstance(value, tuple)
    if sign in ("=", "!="):
        return _equal(found, value) == (sign == "=")
    if found is None:
        return False
    if sign in ("starts", "contains"):
        text, part = as_text(found), as_text(value)
        return text.startswith(part) if sign == "starts" else part in text
    if is_number(value):
        number = as_number(found)
        return number is not None and bool(_ORDER[sign](number, value))
    return bool(_ORDER[sign](as_text(found), as_text(value)))


def _equal(found: Any, value: Value) -> bool:
    if found is None:
        return False
    if is_number(value):
        number = as_number(found)
        return number is not None and number == value
    return as_text(found) == as_text(value)


def is_number(value: Any) -> bool:
    """Return whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_number(value: Any) -> int | float | None:
    """Return a value, or its text, as a number; None if it is not one."""
    return value if is_number(value) else _number(as_text(value))


def as_text(value: Any) -> str:
    """Return a value as JSON writes it, but texts without quotes."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


def _number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text) or len(text) > 40:
        return None
    return int(text) if text.lstrip("+-").isdigit() else float(text)
