"""Reading a SentencePiece model file, without the sentencepiece or protobuf packages.

The file is a protocol-buffer message (protobuf.dev/programming-guides/encoding). Only the fields
that decide how text becomes ids are read. `from_sentencepiece` builds a tokenizer from them.
"""

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from opengte.errors import CheckpointError
from opengte.tokenization.checkpoint_files import read_bytes

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # kinds of pieces
UNIGRAM, BPE = 1, 2  # kinds of models
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

Field = tuple[int, int | bytes]  # number and value


class VocabularyPiece(NamedTuple):
    """One entry of the vocabulary; its id is its position."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePiece:
    """The part of a SentencePiece model that turns text into ids."""

    pieces: tuple[VocabularyPiece, ...]
    kind: int  # UNIGRAM or BPE; others exist
    byte_fallback: bool  # an unknown character becomes the pieces of its bytes
    whitespace_as_suffix: bool
    unk_id: int
    charsmap: bytes  # compiled normalisation rules; empty: none
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool


def read_sentencepiece(path: Path) -> SentencePiece:
    """Return the model in a file; CheckpointError if it is not a complete model."""
    try:
        return _parse(read_bytes(path))
    except ValueError as error:
        raise CheckpointError(
            f"{path} is not a SentencePiece model: {error}. Fetch the checkpoint again."
        ) from error


def merges_by_score(pieces: tuple[VocabularyPiece, ...]) -> list[tuple[str, str]]:
    """Return the merges of a BPE vocabulary, best first.

    SentencePiece stores no merges: it joins the two neighbours whose joint piece has the best
    score. If a piece can be made in two ways, the one with the longer left part comes first.
    """
    normal = {piece.text for piece in pieces if piece.kind == NORMAL}
    ranked = [
        (-piece.score, -cut, piece.text)
        for piece in pieces
        if piece.kind == NORMAL
        for cut in range(1, len(piece.text))
        if piece.text[:cut] in normal and piece.text[cut:] in normal
    ]
    return [(text[:-cut], text[-cut:]) for _, cut, text in sorted(ranked)]


def _parse(data: bytes) -> SentencePiece:
    pieces: list[VocabularyPiece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in _fields(data):
        if number == 1:
            pieces.append(_piece(_bytes(value), len(pieces)))
        elif number == 2:
            trainer |= dict(_fields(_bytes(value)))
        elif number == 3:
            normalizer |= dict(_fields(_bytes(value)))
    _check(pieces)
    return SentencePiece(
        pieces=tuple(pieces),
        kind=_int(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(_int(trainer.get(35, 0))),
        whitespace_as_suffix=bool(_int(trainer.get(24, 0))),
        unk_id=next(i for i, piece in enumerate(pieces) if piece.kind == UNKNOWN),
        charsmap=_bytes(normalizer.get(2, b"")),
        add_dummy_prefix=bool(_int(normalizer.get(3, 1))),
        remove_extra_whitespaces=bool(_int(normalizer.get(4, 1))),
        escape_whitespaces=bool(_int(normalizer.get(5, 1))),
    )


def _check(pieces: list[VocabularyPiece]) -> None:
    """Raise ValueError unless the vocabulary has one unknown piece and no piece twice."""
    if not pieces:
        raise ValueError("it has no pieces")
    unknown = sum(piece.kind == UNKNOWN for piece in pieces)
    if unknown != 1:
        raise ValueError(f"it has {unknown} unknown pieces; expected 1")
    seen: set[str] = set()
    for index, piece in enumerate(pieces):
        if piece.text in seen:
            raise ValueError(f"piece {index}, {piece.text!r}, is there twice")
        seen.add(piece.text)


def _piece(data: bytes, index: int) -> VocabularyPiece:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _bytes(value).decode("utf-8")
        elif number == 2:
            score = _float(value)
        elif number == 3:
            kind = _int(value)
    if not text or not math.isfinite(score) or not NORMAL <= kind <= BYTE:
        raise ValueError(f"piece {index} is broken: text {text!r}, score {score}, kind {kind}")
    return VocabularyPiece(text, score, kind)


def _fields(data: bytes) -> Iterator[Field]:
    """Yield the number and value of each field of a message; ValueError if it is malformed."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == BYTES:
            size, place = _varint(data, place)
        elif wire in (FIXED32, FIXED64):
            size = 4 if wire == FIXED32 else 8
        else:
            raise ValueError(f"field {number} has wire type {wire}, which does not exist")
        if size > len(data) - place:
            raise ValueError(f"field {number} has {size} bytes, {len(data) - place} remain")
        yield number, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Return the variable-length integer at an offset, and the offset after it."""
    value = 0
    for count, byte in enumerate(data[place : place + 10]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, place + count + 1
    raise ValueError(f"the integer at byte {place} of a message does not end")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError(f"a field holds the integer {value}; expected bytes")
    return value


def _int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError(f"a field holds {len(value)} bytes; expected an integer")
    return value


def _float(value: int | bytes) -> float:
    data = _bytes(value)
    if len(data) != 4:
        raise ValueError(f"a field holds {len(data)} bytes; expected a number of 4")
    return float(struct.unpack("<f", data)[0])
