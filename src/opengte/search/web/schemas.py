"""What a client asks for: JSON bodies, read and checked field by field."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from opengte.errors import InputError
from opengte.search.retrieval.fusion import Fusion

LONGEST = 8_000  # characters of a question
MOST = 100  # results
DEEPEST = 32  # lists and objects inside each other

T = TypeVar("T")
Check = Callable[[str, Any], Any]


@dataclass(frozen=True)
class Search:
    """A question, and how to answer it; see `retrieval.search.Options`."""

    query: str
    kb: str | None = None
    k: int = 10
    where: Mapping[str, Any] = field(default_factory=dict)
    legs: tuple[str, ...] | None = None
    fusion: str = "rrf"
    weights: Mapping[str, float] = field(default_factory=dict)
    exact: bool = False
    diversity: float = 0.0
    rerank: bool = False

    def options(self) -> dict[str, Any]:
        """Return the options of `KnowledgeBase.search`; InputError for what cannot be."""
        fusion = Fusion(self.fusion, dict(self.weights))  # type: ignore[arg-type]
        legs = {} if self.legs is None else {"legs": self.legs}
        return {"fusion": fusion, "exact": self.exact, "diversity": self.diversity, **legs}


@dataclass(frozen=True)
class Document:
    """A document, the question that it should answer, and the character that must be shown."""

    id: str
    kb: str | None = None
    query: str | None = None
    at: int | None = None


@dataclass(frozen=True)
class Near:
    """A document whose neighbours are wanted."""

    id: str
    kb: str | None = None
    k: int = 8
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Limited:
    """A question about all documents that fit."""

    kb: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)


def _text(most: int) -> Check:
    def read(name: str, value: Any) -> str:
        if not isinstance(value, str) or not value.strip() or len(value) > most:
            raise InputError(f"{name} is {value!r:.60}, expected a text of 1 to {most} characters")
        return value

    return read


def _whole(least: int, most: int) -> Check:
    def read(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InputError(
                f"{name} is {value!r:.60}, expected a whole number from {least} to {most}"
            )
        return value

    return read


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{name} is {value!r:.60}, expected a number")
    return float(value)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} is {value!r:.60}, expected true or false")
    return value


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{name} is {value!r:.60}, expected an object of fields and values")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InputError(f"{name} is {value!r:.60}, expected a list of texts")
    return tuple(value)


def _weights(name: str, value: Any) -> dict[str, float]:
    return {key: _number(f"{name}.{key}", one) for key, one in _object(name, value).items()}


_ID, _KB = _text(16_384), _text(200)
FIELDS: dict[type[Any], dict[str, Check]] = {
    Search: {
        "query": _text(LONGEST),
        "kb": _KB,
        "k": _whole(1, MOST),
        "where": _object,
        "legs": _texts,
        "fusion": _text(20),
        "weights": _weights,
        "exact": _switch,
        "diversity": _number,
        "rerank": _switch,
    },
    Document: {"id": _ID, "kb": _KB, "query": _text(LONGEST), "at": _whole(0, 2**53)},
    Near: {"id": _ID, "kb": _KB, "k": _whole(1, MOST), "where": _object},
    Limited: {"kb": _KB, "where": _object},
}


def read(kind: type[T], body: bytes) -> T:
    """Return what a body asks for; null is as good as nothing. InputError says what is wrong."""
    given = _json(body)
    known = FIELDS[kind]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise InputError(f"there is no field {unknown[0]!r:.60}; expected {', '.join(known)}")
    values = {name: known[name](name, value) for name, value in given.items() if value is not None}
    needed = next(iter(known))
    if needed != "kb" and needed not in values:
        raise InputError(f"{needed} is missing; expected a text")
    return kind(**values)


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}", parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(found, dict) or _depth(found) > DEEPEST:
        raise InputError(
            f"the body is {type(found).__name__}, expected an object, at most {DEEPEST} deep"
        )
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= DEEPEST:
        depth += 1
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return depth
