"""Filters as SQL over a JSON column, as LanceDB and DataFusion understand it."""

from collections.abc import Sequence

from opengte.search.filters import All, Any_, Condition, Filter, Not, Value, is_number, written


def where(filter_: Filter) -> str:
    """Return an expression that is true or false, never null."""
    match filter_:
        case All(parts):
            return "(" + " AND ".join(map(where, parts)) + ")" if parts else "true"
        case Any_(parts):
            return "(" + " OR ".join(map(where, parts)) + ")" if parts else "false"
        case Not(part):
            return f"(NOT {where(part)})"
    return _condition(filter_)


def among(column: str, values: Sequence[str]) -> str:
    """Return the condition that a column has one of the values."""
    return f"{column} IN ({', '.join(map(quoted, values))})" if values else "false"


def _condition(one: Condition) -> str:
    value = one.value
    if isinstance(value, tuple):
        found = "(" + " OR ".join(_equal(one.field, v) for v in value) + ")" if value else "false"
        return f"(NOT {found})" if one.operator == "not in" else found
    match one.operator:
        case "=":
            return _equal(one.field, value)
        case "!=":
            return f"(NOT {_equal(one.field, value)})"
        case "starts" | "contains":
            function = "starts_with" if one.operator == "starts" else "contains"
            return _sure(f"{function}({_text(one.field)}, {quoted(written(value))})")
    left, right = (
        (_number(one.field), repr(value))
        if is_number(value)
        else (_text(one.field), quoted(written(value)))
    )
    return _sure(f"{left} {one.operator} {right}")


def _equal(field: str, value: Value) -> str:
    if is_number(value):
        return _sure(f"{_number(field)} = {value!r}")
    return _sure(f"{_text(field)} = {quoted(written(value))}")


def _text(field: str) -> str:
    return f"json_get_string(metadata, {quoted(field)})"


def _number(field: str) -> str:
    return f"TRY_CAST({_text(field)} AS DOUBLE)"


def _sure(expression: str) -> str:
    return f"coalesce({expression}, false)"


def quoted(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"
