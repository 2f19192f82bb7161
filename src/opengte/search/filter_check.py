"""Filters that cannot be meant: on a field that no document has, of another type, of no value."""

import difflib
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from opengte.errors import InputError
from opengte.search.filters import (
    And,
    Condition,
    Filter,
    as_number,
    conditions,
    is_number,
)
from opengte.search.stores.base import Store
from opengte.search.stores.listing import list_documents

LISTED = 8  # fields in a message
COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
}


def check_filter(store: Store, where: Filter | None) -> None:
    """Raise InputError if a filter cannot be meant.

    Documents are looked at until each condition has one whose field it can be compared with: few,
    unless the filter is wrong. In a store without documents every filter may be meant.
    """
    _check_ranges(where)
    waiting = list(conditions(where))
    examples: dict[str, Any] = {}
    for one in list_documents(store) if waiting else ():
        waiting = [x for x in waiting if not _is_comparable(x, one.metadata.get(x.field))]
        if not waiting:
            return
        for name, value in one.metadata.items():
            examples.setdefault(name, value)
    if examples:
        for condition in waiting:
            raise InputError(_mistake(condition, examples))


def _is_comparable(condition: Condition, found: Any) -> bool:
    if found is None:
        return False
    if condition.operator in ("starts", "contains"):
        return True
    given = condition.value if isinstance(condition.value, tuple) else (condition.value,)
    return any(_is_alike(value, found) for value in given)


def _is_alike(value: Any, found: Any) -> bool:
    if isinstance(value, bool) or isinstance(found, bool):
        return True
    if as_number(found) is None:
        return not is_number(value)
    return as_number(value) is not None


def _mistake(condition: Condition, examples: Mapping[str, Any]) -> str:
    field = condition.field
    if field in examples:
        kind = "numbers" if is_number(examples[field]) else "texts"
        return (
            f"the filter compares `{field}` with {condition.value!r}, but its values are {kind}, "
            f"such as {examples[field]!r}"
        )
    near = difflib.get_close_matches(field, examples, 1, 0.5)
    shown = ", ".join(f"`{one}`" for one in sorted(examples)[:LISTED])
    meant = f"did you mean `{near[0]}`?" if near else f"there are {shown}"
    return f"the filter is on `{field}`, a field that no document has; {meant}"


def _check_ranges(where: Filter | None) -> None:
    """Raise InputError for two conditions that no value meets."""
    held: dict[tuple[str, bool], list[Condition]] = {}
    for one in _joined(where):
        if one.operator in COMPARISONS and not isinstance(one.value, bool | tuple):
            held.setdefault((one.field, is_number(one.value)), []).append(one)
    for (field, _), found in held.items():
        for first in found:
            for second in found:
                if not _can_meet(first, second):
                    raise InputError(
                        f"no `{field}` is {first.operator} {first.value!r} and "
                        f"{second.operator} {second.value!r}; the filter matches nothing"
                    )


def _can_meet(a: Condition, b: Condition) -> bool:
    """Return whether a value can meet both: one of theirs, or one between them."""
    x: Any
    y: Any
    x, y = a.value, b.value
    if COMPARISONS[a.operator](y, x) and COMPARISONS[b.operator](x, y):
        return True
    if any(COMPARISONS[a.operator](v, x) and COMPARISONS[b.operator](v, y) for v in (x, y)):
        return True
    lower, upper = (a, b) if a.operator in (">", ">=") else (b, a)
    opposite = lower.operator in (">", ">=") and upper.operator in ("<", "<=")
    if opposite:
        return bool(lower.value < upper.value)  # type: ignore[operator]
    return "=" not in (a.operator, b.operator)


def _joined(where: Filter | None) -> Iterator[Condition]:
    """Yield the conditions that must all hold."""
    match where:
        case And(parts):
            for part in parts:
                yield from _joined(part)
        case Condition():
            yield where
