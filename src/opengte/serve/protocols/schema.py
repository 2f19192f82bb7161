"""Types of request and response fields that several protocols share, with their JSON Schema."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from opengte.serve.protocols.base import RequestInfo
from opengte.serve.protocols.token_ids import vocabulary_of
from opengte.serve.types import Input

MAX_INT = 2**31 - 1

TokenId = Annotated[int, Meta(ge=0, le=MAX_INT)]
Count = Annotated[int, Meta(ge=1, le=MAX_INT)]


class Usage(Struct):
    """Tokens that were computed, after truncation."""

    prompt_tokens: int
    total_tokens: int


class InputReport(Struct, kw_only=True):
    """What happened to one input."""

    index: int
    tokens: int
    embedded_tokens: int
    truncated: bool
    error: str | UnsetType = UNSET


class RerankResult(Struct, kw_only=True):
    """One document, in the order of relevance."""

    index: int
    relevance_score: float
    document: dict[str, Any] | UnsetType = UNSET


def exact_schema(description: str, **schema: Any) -> Meta:
    """Return a field's description, and the schema of what its type cannot express.

    msgspec decodes a union with one kind of array only; `openapi.py` puts the schema in its place.
    """
    return Meta(description=description, extra_json_schema={"x-schema": schema})


_TEXT = {"type": "string"}
_ID = {"type": "integer", "minimum": 0, "maximum": MAX_INT}
_IDS = {"type": "array", "minItems": 1, "items": _ID}


def _array(*items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": list(items)} if len(items) > 1 else items[0],
    }


# a text or a list of texts
Texts = Annotated[
    str | list[str],
    exact_schema("A text or a list of texts.", anyOf=[_TEXT, _array(_TEXT)]),
]

# a text, token ids of the served model, or a list of either
Inputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    exact_schema(
        "A text, token ids, or a list of texts and lists of token ids.",
        anyOf=[_TEXT, _IDS, _array(_TEXT, _IDS)],
    ),
]

_FILLED = {"type": "string", "minLength": 1}

# the same without empty texts, as OpenAI has it
FilledInputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    exact_schema(
        "A text, token ids, or a list of texts or of lists of token ids. No empty text.",
        anyOf=[_FILLED, _IDS, _array(_FILLED), _array(_IDS)],
    ),
]

# a document of a reranker: its text, or an object with fields of text
Documents = Annotated[
    list[str | dict[str, Any]],
    exact_schema(
        "Texts, or objects with a field `text`.",
        type="array",
        minItems=1,
        items={
            "anyOf": [
                _TEXT,
                {"type": "object", "properties": {"text": _TEXT}, "required": ["text"]},
            ]
        },
    ),
]


def decode_foreign_ids(
    inputs: tuple[Input, ...], model: str | None, declared: str | None, info: RequestInfo
) -> tuple[Input, ...]:
    """Return inputs with another tokenizer's ids turned into text; InputError if they cannot be."""
    if all(isinstance(item, str) for item in inputs):
        return inputs
    policy = info.policy
    name = vocabulary_of(model, declared, policy.token_ids)
    if name is None:
        return inputs
    return tuple(
        item if isinstance(item, str) else policy.vocabularies.decode(item, name) for item in inputs
    )
