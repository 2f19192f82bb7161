"""Conversions that several protocols share: inputs, vectors, quantised vectors, rankings."""

import binascii
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson

from opengte.errors import InputError
from opengte.serve.types import EmbedAnswer, Input, ScoreAnswer
from opengte.types import Floats


class LazyArray:
    """A JSON array whose items are computed one by one while it is written."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the items."""
        return iter(self.items)


Quantised = Literal["float", "int8", "uint8", "binary", "ubinary"]

# int8 covers this many standard deviations of a component of a unit vector
INT8_RANGE = 6.0


def texts_of(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def inputs_of(value: Any, name: str = "input") -> tuple[Input, ...]:
    """Return a text, token ids, or a list of either as a tuple of inputs; InputError for a mixture.

    >>> inputs_of("a"), inputs_of([1, 2]), inputs_of(["a", [1, 2]])
    (('a',), ((1, 2),), ('a', (1, 2)))
    """
    if isinstance(value, str):
        return (value,)
    if value and all(isinstance(item, int) for item in value):
        return (tuple(value),)
    for index, item in enumerate(value):
        if isinstance(item, int):
            raise InputError(
                f"{name}[{index}] is the number {item} among texts or lists; expected a text, a "
                "list of texts, a list of token ids, or a list of lists of token ids."
            )
    return tuple(item if isinstance(item, str) else tuple(item) for item in value)


def documents_of(documents: Sequence[str | dict[str, Any]], fields: Sequence[str]) -> list[str]:
    """Return the text of each document: itself, or its fields in the order given, one a line.

    InputError names a document that has none of the fields, or one that is not a text.

    >>> documents_of(["a", {"text": "b", "title": "c"}], ["title", "text"])
    ['a', 'c\\nb']
    """
    return [
        document if isinstance(document, str) else _joined_fields(document, fields, index)
        for index, document in enumerate(documents)
    ]


def _joined_fields(document: dict[str, Any], fields: Sequence[str], index: int) -> str:
    values = [document[name] for name in fields if name in document]
    if not values or not all(isinstance(value, str) for value in values):
        raise InputError(
            f"documents[{index}] has the fields {sorted(document)}; expected a string in "
            f"{' or '.join(map(repr, fields))}."
        )
    return "\n".join(values)


def require_values(values: Sequence[Any], name: str) -> None:
    """Raise InputError for an empty list of inputs."""
    if not values:
        raise InputError(f"{name} is empty; expected at least one.")


def base64_of(values: npt.NDArray[Any]) -> str:
    """Return the little-endian bytes of an array in base64."""
    if sys.byteorder == "big":
        values = values.byteswap()
    return binascii.b2a_base64(np.ascontiguousarray(values).data, newline=False).decode("ascii")


def quantise(vector: Floats, form: Quantised) -> npt.NDArray[Any]:
    """Return a unit vector (d,) float32 with fewer bits a component.

    int8: each component times 127 * sqrt(d) / 6, rounded and clipped to -127..127, (d,) int8; all
    vectors of one width have the same scale, so that inner products keep their order. uint8: the
    same plus 128. ubinary: one bit a component, 1 if it is positive, the first in the highest bit
    of its byte, padded with zero bits, (ceil(d / 8),) uint8. binary: ubinary minus 128, int8.

    >>> quantise(np.array([0.6, -0.8], dtype=np.float32), "int8").tolist()
    [18, -24]
    """
    if form == "float":
        return vector
    if form in ("binary", "ubinary"):
        bits = np.packbits(vector > 0)
        return bits if form == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    scaled: Floats = np.rint(np.clip(vector * (127 * np.sqrt(len(vector)) / INT8_RANGE), -127, 127))
    return scaled.astype(np.int8) if form == "int8" else (scaled + 128).astype(np.uint8)


def dense_vectors(answer: EmbedAnswer) -> Sequence[Floats | None]:
    """Return the dense vectors of an answer to a request for them."""
    assert answer.dense is not None
    return answer.dense


def _input_details(answer: EmbedAnswer | ScoreAnswer) -> list[dict[str, Any]]:
    """Return each input's tokens before and after truncation, or why it failed.

    at_least is there where `tokens` is a lower bound, of a text that was not read to its end.
    """
    rows: list[dict[str, Any]] = [
        {
            "index": index,
            "tokens": int(count),
            "embedded_tokens": int(count),
            "truncated": False,
        }
        for index, count in enumerate(answer.token_counts)
    ]
    for cut in answer.truncated:
        rows[cut.index].update(tokens=cut.found, embedded_tokens=cut.kept, truncated=True)
        if cut.at_least:
            rows[cut.index]["at_least"] = True
    for failed in answer.failures:
        rows[failed.index]["error"] = str(failed.error)
    return rows


def input_report(answer: EmbedAnswer | ScoreAnswer, every: bool) -> dict[str, Any]:
    """Return the `inputs` field of a reply: every input, or those truncated or failed.

    Empty if there are none.
    """
    if every:
        return {"inputs": _input_details(answer)}
    affected = {cut.index for cut in answer.truncated}
    affected |= {failure.index for failure in answer.failures}
    if not affected:
        return {}
    rows = _input_details(answer)
    return {"inputs": [rows[index] for index in sorted(affected)]}


def ranked(scores: Sequence[float | None], top: int | None = None) -> list[tuple[int, float]]:
    """Return (index, score), best first, ties in input order; failed pairs are left out.

    >>> ranked([0.1, 0.9, None, 0.9], 2)
    [(1, 0.9), (3, 0.9)]
    """
    pairs = [(index, float(score)) for index, score in enumerate(scores) if score is not None]
    pairs.sort(key=lambda pair: -pair[1])
    return pairs if top is None else pairs[:top]


def rerank_results(
    answer: ScoreAnswer, top: int | None, documents: Sequence[str | dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """Return the best documents as the results of Jina and Cohere; with documents, their texts."""
    results: list[dict[str, Any]] = []
    for index, score in ranked(answer.scores, top):
        results.append({"index": index, "relevance_score": score})
        if documents is not None:
            results[-1]["document"] = echo_document(documents[index])
    return results


def tokens_of(answer: EmbedAnswer | ScoreAnswer) -> int:
    """Return how many tokens were read, those that truncation removed included."""
    return answer.tokens_read


def echo_document(document: str | dict[str, Any]) -> Any:
    """Return a document for the reply to the client that sent it, with all its fields.

    It is serialized here: orjson refuses integers of more than 64 bits and nests less deeply.
    """
    if isinstance(document, str):
        return {"text": document}
    written = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return orjson.Fragment(written.encode())
