"""Clients' words for the role of a text in a search, and for how over-long texts are truncated."""

from typing import Literal

from opengte.types import Role, TruncationSide

InputType = Literal[
    "query",
    "search_query",
    "retrieval.query",
    "document",
    "passage",
    "search_document",
    "retrieval.passage",
    "classification",
    "clustering",
    "separation",
    "text-matching",
    "similarity",
    "none",
]

# symmetric tasks have no role: a text gets the model's plain prompt
ROLES: dict[str, Role | None] = {
    "query": "query",
    "search_query": "query",
    "retrieval.query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
    "retrieval.passage": "document",
    "classification": None,
    "clustering": None,
    "separation": None,
    "text-matching": None,
    "similarity": None,
    "none": None,
}

Truncate = Literal["none", "error", "start", "left", "end", "right", "NONE", "START", "END"]

TRUNCATION_SIDES: dict[str, TruncationSide] = {
    "none": "error",
    "error": "error",
    "start": "left",
    "left": "left",
    "end": "right",
    "right": "right",
}


def role_of(input_type: str | None) -> Role | None:
    """Return the role that a client's input type stands for."""
    return None if input_type is None else ROLES[input_type]


def truncation_side(truncate: str | bool | None, auto: bool) -> TruncationSide:
    """Return where to cut; auto is what a request gets that does not say.

    >>> truncation_side("START", True), truncation_side(False, True), truncation_side(None, False)
    ('left', 'error', 'error')
    """
    if truncate is None:
        truncate = auto
    if isinstance(truncate, bool):
        return "right" if truncate else "error"
    return TRUNCATION_SIDES[truncate.lower()]
