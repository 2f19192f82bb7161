"""Texts to tokens with their places, and back: what clients may look at."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opengte.errors import InputError
from opengte.serve.types import Token
from opengte.tokenization.backend import BackendFailure, call_backend
from opengte.tokenization.tokenizer import SURROGATES, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding


def offsets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Return where each token of each text starts and stops, in characters."""
    return [encoding.offsets for encoding in _encode(tokenizer, texts)]


def tokens(
    tokenizer: Tokenizer, texts: Sequence[str], add_special: bool, prefix: str
) -> list[list[Token]]:
    """Return the tokens of each text after its prompt; offsets count from the text's start."""
    found = _encode(tokenizer, [prefix + text for text in texts])
    return [_tokens(tokenizer, encoding, add_special, len(prefix)) for encoding in found]


def decode(tokenizer: Tokenizer, rows: Sequence[Sequence[int]], skip_special: bool) -> list[str]:
    """Return the text that each sequence of ids spells."""
    result = []
    for place, row in enumerate(rows):
        try:
            kept = [token for token in row if not (skip_special and token in tokenizer.special_ids)]
            result.append(tokenizer.decode(kept))
        except InputError as error:
            raise InputError(f"ids[{place}]: {error}") from None
    return result


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> "list[Encoding]":
    good = [SURROGATES.sub("\ufffd", text) for text in texts]
    if tokenizer.lowercase:
        good = [_lower(text) for text in good]
    try:
        return call_backend(lambda: tokenizer.backend.encode_batch(good, add_special_tokens=False))
    except BackendFailure as failure:
        raise InputError(f"the texts cannot be tokenised: {failure}") from None


def _lower(text: str) -> str:
    """Lower-case a text; where that changes its length, the rest of its offsets shifts with it."""
    return text.lower()


def _tokens(
    tokenizer: Tokenizer, encoding: "Encoding", add_special: bool, prefix: int
) -> list[Token]:
    special = tokenizer.special_ids
    body = [
        Token(
            int(token),
            tokenizer.token(token),
            token in special,
            max(0, start - prefix) if stop > prefix else None,
            stop - prefix if stop > prefix else None,
        )
        for token, (start, stop) in zip(encoding.ids, encoding.offsets, strict=True)
    ]
    if not add_special:
        return body
    before, after = (
        [Token(token, tokenizer.token(token), True, None, None) for token, _ in part]
        for part in tokenizer.single.specials
    )
    return [*before, *body, *after]
