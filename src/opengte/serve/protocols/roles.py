"""What clients call the side of a search that a text is on, and how over-long texts are cut."""

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

# the symmetric tasks have no side: a text gets the model's plain prompt
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

SIDES: dict[str, TruncationSide] = {
    "none": "error",
    "error": "error",
    "start": "left",
    "left": "left",
    "end": "right",
    "right": "right",
}


def role_of(input_type: str | None) -> Role | None:
    """Return the role that a client's word means."""
    return None if input_type is None else ROLES[input_type]


def side_of(truncate: str | bool | None, auto: bool) -> TruncationSide:
    """Return where to cut; auto is what a request gets that does not say.

    >>> side_of("START", True), side_of(False, True), side_of(None, False)
    ('left', 'error', 'error')
    """
    if truncate is None:
        truncate = auto
    if isinstance(truncate, bool):
        return "right" if truncate else "error"
    return SIDES[truncate.lower()]
