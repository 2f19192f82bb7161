"""The tokens of texts with their offsets, and token ids back to text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opengte.errors import InputError
from opengte.serve.types import Token
from opengte.tokenization.backend import BackendFailure, call_backend
from opengte.tokenization.tokenizer import SURROGATES, Tokenizer

if TYPE_CHECKING:
    from tokenizers import Encoding

# Of one `/tokenize` request: more than any model reads, and about 60 MB of tokens.
MAX_CHARACTERS = 2**18


def token_offsets(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Return the start and end of each token of each text, in characters."""
    return [encoding.offsets for encoding in _encode(tokenizer, texts)]


def text_tokens(
    tokenizer: Tokenizer, texts: Sequence[str], add_special: bool, prefix: str
) -> list[list[Token]]:
    """Return the tokens of each text with its prompt; offsets are relative to the text.

    Raises InputError for texts of more than MAX_CHARACTERS together: each token is answered.
    """
    size = sum(len(prefix) + len(text) for text in texts)
    if size > MAX_CHARACTERS:
        raise InputError(
            f"the texts have {size} characters together; expected up to {MAX_CHARACTERS}, because "
            "every token is listed. Send them in parts."
        )
    encodings = _encode(tokenizer, [prefix + text for text in texts])
    return [_tokens(tokenizer, encoding, add_special, len(prefix)) for encoding in encodings]


def decode(tokenizer: Tokenizer, rows: Sequence[Sequence[int]], skip_special: bool) -> list[str]:
    """Return the text of each sequence of token ids."""
    special = tokenizer.special_ids if skip_special else frozenset()
    texts = []
    for index, row in enumerate(rows):
        try:
            texts.append(tokenizer.decode([token for token in row if token not in special]))
        except InputError as error:
            raise InputError(f"ids[{index}]: {error}") from None
    return texts


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> "list[Encoding]":
    valid = [SURROGATES.sub("\ufffd", text) for text in texts]
    if tokenizer.lowercase:
        # where that changes the length of a text, the offsets behind it shift
        valid = [text.lower() for text in valid]
    try:
        return call_backend(lambda: tokenizer.backend.encode_batch(valid, add_special_tokens=False))
    except BackendFailure as failure:
        raise InputError(f"the texts cannot be tokenised: {failure}") from None


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
