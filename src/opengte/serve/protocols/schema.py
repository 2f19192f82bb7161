"""Field types that several protocols have, with the JSON Schema that says them exactly."""

from typing import Annotated, Any

from msgspec import Meta

from opengte.serve.protocols.base import Exchange
from opengte.serve.protocols.token_ids import encoding_of
from opengte.serve.types import Input

LARGEST = 2**31 - 1

TokenId = Annotated[int, Meta(ge=0, le=LARGEST)]
Count = Annotated[int, Meta(ge=1, le=LARGEST)]


def exactly(description: str, **schema: Any) -> Meta:
    """Return a description of a field whose type says less than the schema given.

    msgspec decodes a union with one kind of array only; `openapi.py` puts the schema in its place.
    """
    return Meta(description=description, extra_json_schema={"x-schema": schema})


_TEXT = {"type": "string"}
_ID = {"type": "integer", "minimum": 0, "maximum": LARGEST}
_IDS = {"type": "array", "minItems": 1, "items": _ID}


def _several(*items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "array",
        "minItems": 1,
        "items": {"anyOf": list(items)} if len(items) > 1 else items[0],
    }


# a text or a list of texts
Texts = Annotated[
    str | list[str],
    exactly("A text or a list of texts.", anyOf=[_TEXT, _several(_TEXT)]),
]

# a text, token ids of the model's own, or a list of either
Inputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    exactly(
        "A text, token ids, or a list of texts and lists of token ids.",
        anyOf=[_TEXT, _IDS, _several(_TEXT, _IDS)],
    ),
]

_FILLED = {"type": "string", "minLength": 1}

# the same, with no empty text, as OpenAI has it
FilledInputs = Annotated[
    str | list[str | TokenId | list[TokenId]],
    exactly(
        "A text, token ids, or a list of texts or of lists of token ids. No empty text.",
        anyOf=[_FILLED, _IDS, _several(_FILLED), _several(_IDS)],
    ),
]

# a document of a reranker: its text, or an object with fields of text
Documents = Annotated[
    list[str | dict[str, Any]],
    exactly(
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


def readable(
    inputs: tuple[Input, ...], model: str | None, declared: str | None, exchange: Exchange
) -> tuple[Input, ...]:
    """Return inputs with foreign token ids turned into text; InputError where that cannot be."""
    if all(isinstance(item, str) for item in inputs):
        return inputs
    policy = exchange.policy
    name = encoding_of(model, declared, policy.token_ids)
    if name is None:
        return inputs
    return tuple(
        item if isinstance(item, str) else policy.vocabularies.decode(item, name) for item in inputs
    )
