"""Texts as callers hold them: lists, and what NumPy, pandas, polars and pyarrow hold as strings."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from opengte.errors import InputError

EXPECTED = "expected strings in a list, or another iterable of them"


def single_text(value: object) -> str | None:
    """Return the string that a value is, or that an array or scalar without dimensions holds.

    >>> single_text("a cat"), single_text(["a cat"])
    ('a cat', None)
    """
    value = _unwrapped(value)
    return value if isinstance(value, str) else None


def check_text(value: object, name: str) -> str:
    """Return a single text; InputError if it is not a string."""
    text = single_text(value)
    if text is None:
        raise InputError(f"{name} is of type {type(value).__name__}, expected a string")
    return text


def check_texts(texts: Iterable[str], name: str = "texts") -> list[str]:
    """Return texts as a list; InputError names the first one that is not a string.

    >>> check_texts(iter(["a cat", "a dog"]))
    ['a cat', 'a dog']
    """
    return list(iter_checked(texts, name))


def check_ids(ids: Iterable[str | int], name: str = "ids", *, ordered: bool = True) -> list[str]:
    """Return ids as strings; integers are taken, and the keys of a mapping.

    A set is taken where the order does not matter.

    >>> check_ids(["a", 2])
    ['a', '2']
    """
    if not isinstance(ids, Mapping) and (ordered or not isinstance(ids, set | frozenset)):
        _refuse_others(ids, name)
    found = [_unwrapped(one) for one in ids]
    for index, one in enumerate(found):
        if isinstance(one, bool) or not isinstance(one, str | int):
            raise _wrong_item(one, f"{name}[{index}]", "expected a string or a whole number")
    return [str(one) for one in found]


def iter_checked(texts: Iterable[str], name: str = "texts") -> Iterator[str]:
    """Yield texts; InputError if this is not a series of them, or names the first other item."""
    _refuse_others(texts, name)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            text = _unwrapped(text)
            if not isinstance(text, str):
                raise _wrong_item(text, f"{name}[{index}]", "expected a string")
        yield text


def _unwrapped(value: Any) -> Any:
    """Return what a scalar of NumPy or pyarrow, or an array without dimensions, holds."""
    if isinstance(value, str):
        return value
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    return value.as_py() if hasattr(value, "as_py") else value


def _refuse_others(texts: object, name: str) -> None:
    """Raise InputError for what is no series of texts, though it may be iterable."""
    kind = type(texts).__name__
    if single_text(texts) is not None:
        raise InputError(f"{name} is a single string, expected a list of strings: wrap it in [ ]")
    columns = _columns(texts)
    if columns is not None:
        listed = ", ".join(f"`{column}`" for column in columns[:8]) or "none"
        raise InputError(
            f"{name} is a {kind} with the columns {listed}, expected one column: pass "
            f"{name}[{columns[0] if columns else 'text'!r}], or another one of them"
        )
    if isinstance(texts, Mapping):
        raise InputError(
            f"{name} is a {kind}, {EXPECTED}: pass list({name}.values()) for its values, "
            f"or {name}[key] for one list in it"
        )
    if isinstance(texts, set | frozenset):
        raise InputError(
            f"{name} is a {kind}, which has no order, so that results could not be told apart: "
            f"pass sorted({name})"
        )
    if isinstance(texts, bytes | bytearray | memoryview):
        raise InputError(f"{name} is of type {kind}, {EXPECTED}: decode it, as in b'...'.decode()")
    shape = getattr(texts, "shape", None)
    if isinstance(shape, tuple) and len(shape) != 1:
        raise InputError(f"{name} is a {kind} of shape {shape}, expected one dimension")
    if not hasattr(texts, "__iter__"):
        raise InputError(f"{name} is of type {kind}, {EXPECTED}")


def _columns(table: object) -> list[Any] | None:
    """Return the names of the columns of a table of pandas, polars or pyarrow; None for others."""
    for attribute in ("column_names", "columns"):
        if hasattr(type(table), attribute):  # of the type: a label of a Series is an attribute too
            return list(getattr(table, attribute))
    return None


def _wrong_item(value: object, place: str, expected: str) -> InputError:
    kind = type(value).__name__
    hint = ""
    if isinstance(value, list | tuple):
        hint = ": pass one flat list"
    elif isinstance(value, bytes):
        hint = ": decode it"
    elif value is None or kind in ("NAType", "NaTType") or (kind == "float" and value != value):
        hint = ": leave out what is missing, or put '' in its place"
    return InputError(f"{place} is of type {kind}, {expected}{hint}")
