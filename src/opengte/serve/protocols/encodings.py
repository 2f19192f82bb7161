"""Values as they travel, whatever the protocol: inputs, vectors, quantised vectors, order."""

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


class Rows:
    """A JSON array whose items are made while it is written, one by one."""

    def __init__(self, items: Iterable[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        """Return an iterator over the items."""
        return iter(self.items)


Quantised = Literal["float", "int8", "uint8", "binary", "ubinary"]

# int8 steps are of this many standard deviations of a component of a unit vector, over 127
CLIP = 6.0


def texts_of(value: str | Sequence[str]) -> tuple[str, ...]:
    """Return one text or several as a tuple."""
    return (value,) if isinstance(value, str) else tuple(value)


def inputs_of(value: Any, name: str = "input") -> tuple[Input, ...]:
    """Return a text, ids, or a list of either, as the service takes them; InputError on a mixture.

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
    """Return the text of each document: itself, or its fields, one a line, in the order given.

    InputError names the document that has none of them, or one that is no text.

    >>> documents_of(["a", {"text": "b", "title": "c"}], ["title", "text"])
    ['a', 'c\\nb']
    """
    return [
        document if isinstance(document, str) else _fields(document, fields, index)
        for index, document in enumerate(documents)
    ]


def _fields(document: dict[str, Any], fields: Sequence[str], index: int) -> str:
    found = [document[name] for name in fields if name in document]
    if not found or not all(isinstance(value, str) for value in found):
        raise InputError(
            f"documents[{index}] has the fields {sorted(document)}; expected a string in "
            f"{' or '.join(map(repr, fields))}."
        )
    return "\n".join(found)


def require(values: Sequence[Any], name: str) -> None:
    """Raise InputError when there is nothing to compute."""
    if not values:
        raise InputError(f"{name} is empty; expected at least one.")


def base64_of(values: npt.NDArray[Any]) -> str:
    """Return the little-endian bytes of an array in base64."""
    if sys.byteorder == "big":
        values = values.byteswap()
    return binascii.b2a_base64(np.ascontiguousarray(values).data, newline=False).decode("ascii")


def quantise(vector: Floats, form: Quantised) -> npt.NDArray[Any]:
    """Return a unit vector (d,) in fewer bits.

    int8: each component times 127 * sqrt(d) / 6, rounded and clipped to -127..127; one scale for
    all vectors of a width, so that inner products keep their order. uint8: the same plus 128.
    ubinary: a bit a component, 1 where it is positive, the first in the highest bit of its byte,
    (d / 8,) uint8, zero bits at the end where 8 does not divide d. binary: that minus 128, int8.

    >>> quantise(np.array([0.6, -0.8], dtype=np.float32), "int8").tolist()
    [18, -24]
    """
    if form == "float":
        return vector
    if form in ("binary", "ubinary"):
        bits = np.packbits(vector > 0)
        return bits if form == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    scaled: Floats = np.rint(np.clip(vector * (127 * np.sqrt(len(vector)) / CLIP), -127, 127))
    return scaled.astype(np.int8) if form == "int8" else (scaled + 128).astype(np.uint8)


def dense(answer: EmbedAnswer) -> Sequence[Floats | None]:
    """Return the dense vectors of an answer that was asked for them."""
    assert answer.dense is not None
    return answer.dense


def details(answer: EmbedAnswer | ScoreAnswer) -> list[dict[str, Any]]:
    """Return per input its tokens before and after truncation, or why it has no result."""
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
    for failed in answer.failures:
        rows[failed.index]["error"] = str(failed.error)
    return rows


def report(answer: EmbedAnswer | ScoreAnswer, wanted: bool) -> dict[str, Any]:
    """Return the extension of a reply: every input where wanted, else those with something to say.

    Empty when all inputs came through whole and nobody asked.
    """
    if wanted:
        return {"inputs": details(answer)}
    odd = {cut.index for cut in answer.truncated} | {failed.index for failed in answer.failures}
    if not odd:
        return {}
    rows = details(answer)
    return {"inputs": [rows[index] for index in sorted(odd)]}


def ranked(scores: Sequence[float | None], top: int | None = None) -> list[tuple[int, float]]:
    """Return (index, score), best first, ties in input order, failed pairs left out.

    >>> ranked([0.1, 0.9, None, 0.9], 2)
    [(1, 0.9), (3, 0.9)]
    """
    found = [(index, float(score)) for index, score in enumerate(scores) if score is not None]
    found.sort(key=lambda pair: -pair[1])
    return found if top is None else found[:top]


def tokens_of(answer: EmbedAnswer | ScoreAnswer) -> int:
    """Return how many tokens were computed."""
    return int(sum(answer.token_counts))


def echoed(document: str | dict[str, Any]) -> Any:
    """Return a document as it goes back to the client that sent it, with whatever else it holds.

    It is written already: orjson knows no integers of more than 64 bits and nests less deeply.
    """
    if isinstance(document, str):
        return {"text": document}
    written = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return orjson.Fragment(written.encode())
