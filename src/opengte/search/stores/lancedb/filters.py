"""Filters as SQL over a JSON column, as LanceDB and DataFusion understand it."""

from collections.abc import Sequence

from opengte.search.filters import And, Condition, Filter, Not, Or, Value, as_text, is_number


def to_sql(filter_: Filter) -> str:
    """Return an expression that is true or false, never null."""
    match filter_:
        case And(parts):
            return "(" + " AND ".join(map(to_sql, parts)) + ")" if parts else "true"
        case Or(parts):
            return "(" + " OR ".join(map(to_sql, parts)) + ")" if parts else "false"
        case Not(part):
            return f"(NOT {to_sql(part)})"
    return _condition(filter_)


def in_list(column: str, values: Sequence[str]) -> str:
    """Return the condition that a column has one of the values."""
    return f"{column} IN ({', '.join(map(sql_literal, values))})" if values else "false"


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
            return _sure(f"{function}({_text(one.field)}, {sql_literal(as_text(value))})")
    left, right = (
        (_number(one.field), repr(value))
        if is_number(value)
        else (_text(one.field), sql_literal(as_text(value)))
    )
    return _sure(f"{left} {one.operator} {right}")


def _equal(field: str, value: Value) -> str:
    if is_number(value):
        return _sure(f"{_number(field)} = {value!r}")
    return _sure(f"{_text(field)} = {sql_literal(as_text(value))}")


def _text(field: str) -> str:
    return f"json_get_string(metadata, {sql_literal(field)})"


def _number(field: str) -> str:
    return f"TRY_CAST({_text(field)} AS DOUBLE)"


def _sure(expression: str) -> str:
    return f"coalesce({expression}, false)"


def sql_literal(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("\0", "").replace("'", "''") + "'"
