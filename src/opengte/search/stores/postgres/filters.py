"""Filters as SQL over two JSON columns: every field as it is written, and those that are numbers.

Values are parameters, never part of the statement.
"""

import json
import math
from collections.abc import Mapping
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
from opengte.search.stores.postgres.schema import replace_nul

SqlCondition = tuple[str, list[Any]]  # an expression that is true or false, and its parameters


def filter_columns(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Return the JSON of both columns."""
    texts = {replace_nul(name): replace_nul(as_text(value)) for name, value in metadata.items()}
    found = {replace_nul(name): as_number(value) for name, value in metadata.items()}
    numbers = {name: n for name, n in found.items() if n is not None and math.isfinite(n)}
    return json.dumps(texts), json.dumps(numbers)


def to_sql(filter_: Filter | None, table: str) -> SqlCondition:
    """Return a filter on the columns `texts` and `numbers` of a table."""
    match filter_:
        case None:
            return "true", []
        case And(parts):
            return _joined(parts, table, " AND ", "true")
        case Or(parts):
            return _joined(parts, table, " OR ", "false")
        case Not(part):
            text, values = to_sql(part, table)
            return f"(NOT {text})", values
    return _condition(filter_, table)


def _joined(parts: tuple[Filter, ...], table: str, word: str, none: str) -> SqlCondition:
    found = [to_sql(part, table) for part in parts]
    if not found:
        return none, []
    return "(" + word.join(text for text, _ in found) + ")", [v for _, vs in found for v in vs]


def _condition(one: Condition, table: str) -> SqlCondition:
    value = one.value
    if isinstance(value, tuple):
        equal = [_equal(one.field, v, table) for v in value]
        text = "(" + " OR ".join(t for t, _ in equal) + ")" if equal else "false"
        values = [v for _, vs in equal for v in vs]
        return (f"(NOT {text})", values) if one.operator == "not in" else (text, values)
    if one.operator in ("=", "!="):
        text, values = _equal(one.field, value, table)
        return (f"(NOT {text})", values) if one.operator == "!=" else (text, values)
    if one.operator in ("starts", "contains"):
        test = "starts_with({}, %s)" if one.operator == "starts" else "strpos({}, %s) > 0"
        values = [replace_nul(one.field), replace_nul(as_text(value))]
        return _sure(test.format(f"{table}.texts->>%s")), values
    if is_number(value):
        if math.isnan(value):  # type: ignore[arg-type]
            return "false", []
        number = f"({table}.numbers->>%s)::numeric {one.operator} %s::numeric"
        return _sure(number), [replace_nul(one.field), repr(value)]
    order = f'({table}.texts->>%s) COLLATE "C" {one.operator} %s'
    return _sure(order), [replace_nul(one.field), replace_nul(as_text(value))]


def _equal(field: str, value: Value, table: str) -> SqlCondition:
    """Compare through what the index on the columns finds: this field with this value."""
    if is_number(value):
        if not math.isfinite(value):  # type: ignore[arg-type]
            return "false", []
        return f"({table}.numbers @> %s::jsonb)", [json.dumps({replace_nul(field): value})]
    return f"({table}.texts @> %s::jsonb)", [
        json.dumps({replace_nul(field): replace_nul(as_text(value))})
    ]


def _sure(expression: str) -> str:
    return f"coalesce({expression}, false)"
