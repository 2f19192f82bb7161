"""Strings to packed token ids.

Token ids are those of the models' training. Prompt and text are tokenised as one string. Special
tokens go where the checkpoint's template puts them. The name of a special token inside a text
(`[SEP]`, `<|endoftext|>`) becomes that special token, as in transformers. Truncation never drops a
special token or a token of the prompt.
"""

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, get_args

import numpy as np

from opengte.errors import InputError, TruncationError
from opengte.tokenization.backend import (
    LOOKAHEAD,
    Cut,
    count_prefix_tokens,
    cut_pattern,
    encode_texts,
)
from opengte.tokenization.long_texts import (
    LONG,
    beginning,
    ending,
    longest_token,
    shortened,
)
from opengte.tokenization.ragged import (
    Offsets,
    Ragged,
    fill_empty,
    pack_sequences,
    prepend,
    truncate,
    without_id,
)
from opengte.tokenization.template import Template
from opengte.types import Ints, PromptMask, Tokenized, Truncated, TruncationSide

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

SURROGATES = re.compile("[\ud800-\udfff]")
NAMED = 10  # how many inputs an error lists


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A checkpoint's tokenizer; immutable, so that any number of threads can share it.

    Attributes:
        backend: The tokenizer of the `tokenizers` library.
        single: The special tokens around one text.
        pair: The special tokens around two texts.
        named: The ids of special tokens: "cls", "sep", "bos", "eos", "pad", "unk", "mask".
        lowercase: Whether texts are converted to lower case first.
        bare: Whether a text may have no tokens at all, as in a static model.
        dropped: The id of the token that is left out of every text.
    """

    backend: "Backend" = field(repr=False)
    single: Template
    pair: Template
    named: dict[str, int]
    lowercase: bool = False
    bare: bool = False
    dropped: int | None = None

    def compute_derived(self) -> None:
        """Compute what is derived from the tokenizer once, before there can be threads or forks.

        Before Python 3.12 a cached property has a lock, which a child that is forked while another
        thread computes the property would wait for.
        """
        for name in ("special_ids", "_cut"):
            getattr(self, name)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prompt: str = "",
        max_length: int,
        truncation: TruncationSide = "right",
        mask: PromptMask = "none",
    ) -> Tokenized:
        """Return texts as token sequences of at most max_length tokens, special tokens included.

        The prompt goes in front of every text. truncation "right" drops the end of a text that is
        too long, "left" its beginning, and "error" raises TruncationError. mask selects what
        pooling leaves out of a text with a prompt.
        """
        texts, repaired = self._prepared(texts, "texts")
        prompt = self._prepared([prompt], "prompt")[0][0]
        full = [prompt + text for text in texts] if prompt else texts
        (first,) = self._prompt_tokens(prompt, [prompt + "a"])
        room = self._room(max_length, self.single.size, int(first))
        read, partial = self._parts(full, room, truncation)
        found = self._ids(read)
        found = self._fill(found, found.lengths + self.single.size, "texts")
        total = found.lengths + self.single.size
        truncated = _truncated(total, max_length, truncation, partial)
        heads = None
        if truncation == "left":
            long = [record.index for record in truncated]
            own = self._prompt_tokens(prompt, [full[index] for index in long])
            heads = np.zeros_like(found.lengths)
            heads[long] = np.minimum(own, room - 1)
            if prompt and partial:  # what was read of these texts lacks the prompt
                starts = [full[i][: len(prompt) + LOOKAHEAD] for i in partial]
                found = prepend(found, partial, self._ids(starts))
        kept = truncate(found, np.full(len(texts), room), heads)
        if self.dropped is not None:
            kept = without_id(kept, self.dropped)
        pool_from = np.full(len(texts), self._masked(prompt, mask))
        return Tokenized(pack_sequences(self.single, [kept], pool_from), truncated, repaired)

    def encode_pairs(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_length: int,
        truncation: TruncationSide = "right",
    ) -> Tokenized:
        """Return (query, document) pairs as token sequences of at most max_length tokens.

        In a pair that is too long, the query keeps three quarters of the available tokens, or what
        the document leaves if that is more. The document keeps the rest.
        """
        queries, documents = _unzipped(pairs)
        queries, bad_queries = self._prepared(queries, "pairs")
        documents, bad_documents = self._prepared(documents, "pairs")
        room = self._room(max_length, self.pair.size, 0, bodies=2)
        queries, long_queries = self._parts(queries, room, truncation)
        documents, long_documents = self._parts(documents, room, truncation)
        first, second = self._ids(queries), self._ids(documents)
        second = self._fill(second, first.lengths + second.lengths + self.pair.size, "pairs")
        total = first.lengths + second.lengths + self.pair.size
        truncated = _truncated(total, max_length, truncation, {*long_queries, *long_documents})
        share = np.maximum(room * 3 // 4, room - second.lengths)
        first_kept = np.minimum(first.lengths, share)
        heads = np.zeros_like(total) if truncation == "left" else None
        parts = [truncate(first, first_kept, heads), truncate(second, room - first_kept, heads)]
        batch = pack_sequences(self.pair, parts, np.zeros_like(total))
        return Tokenized(batch, truncated, tuple(sorted({*bad_queries, *bad_documents})))

    def encode_framed(
        self,
        bodies: Sequence[str],
        *,
        prefix: str,
        suffix: str,
        max_length: int,
        truncation: TruncationSide = "right",
    ) -> Tokenized:
        """Return prefix + body + suffix, each tokenised separately, without other special tokens.

        Only the body is truncated. Qwen3-Reranker reads its inputs in this form.
        """
        bodies, repaired = self._prepared(bodies, "bodies")
        around = self._ids([prefix]), self._ids([suffix])
        frame = Template(tuple(tuple((int(i), 0) for i in part.ids) for part in around), (0,))
        room = self._room(max_length, frame.size, 0)
        read, partial = self._parts(bodies, room, truncation)
        found = self._ids(read)
        found = self._fill(found, found.lengths + frame.size, "bodies")
        truncated = _truncated(found.lengths + frame.size, max_length, truncation, partial)
        heads = np.zeros_like(found.lengths) if truncation == "left" else None
        kept = truncate(found, np.full(len(bodies), room), heads)
        return Tokenized(
            pack_sequences(frame, [kept], np.zeros_like(found.lengths)), truncated, repaired
        )

    def count(self, texts: Sequence[str], prompt: str = "") -> Ints:
        """Return the tokens of each text, prompt and special tokens included, (n,) int32."""
        texts, _ = self._prepared(texts, "texts")
        prompt = self._prepared([prompt], "prompt")[0][0]
        found = self._ids([prompt + text for text in texts])
        least = 0 if self.bare else 1
        return np.maximum(found.lengths + self.single.size, least).astype(np.int32)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        for token in ids:
            self.token(token)
        return str(self.backend.decode(list(map(int, ids)), skip_special_tokens=False))

    def token(self, token_id: int) -> str:
        """Return the token with an id, as the vocabulary has it."""
        token = self.backend.id_to_token(int(token_id)) if 0 <= token_id < 2**32 else None
        if token is None:
            raise InputError(
                f"token_id={token_id} is not in the vocabulary; expected one of the ids of its "
                f"{self.vocabulary_size} tokens."
            )
        return str(token)

    def token_id(self, token: str) -> int | None:
        """Return the id of a token, None if it is not in the vocabulary."""
        return self.backend.token_to_id(token)

    @property
    def vocabulary_size(self) -> int:
        """Return the number of tokens in the vocabulary, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Return the ids of special tokens, which a sparse head leaves out."""
        named = (token for name, token in self.named.items() if name != "mask")
        return frozenset(named) | self.single.ids | self.pair.ids

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of everything that determines the ids of a text."""
        layout = repr((self.single, self.pair, self.lowercase))
        if self.bare:
            layout += repr((self.bare, self.dropped))
        text = self.backend.to_str(pretty=False) + layout
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _cut(self) -> Cut:
        return cut_pattern(self.backend)

    @cached_property
    def _longest(self) -> int:
        return longest_token(self.backend)

    def part(self, text: str, tokens: int, side: TruncationSide = "right") -> str:
        """Return the part of a text that its first tokens depend on; side "left": the last ones.

        It has more than this many tokens, or it is the whole text. A text of up to 65,536
        characters is returned whole.
        """
        if len(text) <= LONG:
            return text
        if side == "left":
            return ending(self.backend, text, self._cut, tokens + 1, self._longest)
        return beginning(self.backend, text, self._cut, tokens + 1, self._longest)

    def _parts(
        self, texts: list[str], tokens: int, side: TruncationSide
    ) -> tuple[list[str], tuple[int, ...]]:
        """Return what has to be read of each text, and the indices of those with more."""
        if all(len(text) <= LONG for text in texts):
            return texts, ()
        parts, partial = [], []
        for index, text in enumerate(texts):
            part = self.part(text, tokens, side)
            if len(part) == len(text) > LONG:
                text = shortened(self.backend, text, self._longest)
                part = self.part(text, tokens, side)
            parts.append(part)
            if len(part) < len(text):
                partial.append(index)
        return parts, tuple(partial)

    def _ids(self, texts: Sequence[str]) -> Ragged:
        return encode_texts(self.backend, texts, self._cut)

    def _prompt_tokens(self, prompt: str, full: Sequence[str]) -> Offsets:
        """Return the number of tokens of each text that end within its prompt, (n,)."""
        if not prompt or not full:
            return np.zeros(len(full), dtype=np.int64)
        return count_prefix_tokens(self.backend, full, len(prompt))

    def _masked(self, prompt: str, mask: PromptMask) -> int:
        """Return the number of leading tokens that pooling leaves out of every text."""
        if mask == "none" or not prompt:
            return 0
        alone = len(self._ids([prompt]).ids)
        return alone + (len(self.single.specials[0]) if mask == "prompt" else 0)

    def _fill(self, found: Ragged, total: Offsets, what: str) -> Ragged:
        """Put an end or padding token into each text whose total of tokens, (n,), is zero."""
        empty = np.flatnonzero(total == 0)
        if len(empty) == 0 or self.bare:
            return found
        token = next((self.named[n] for n in ("eos", "pad", "unk") if n in self.named), None)
        if token is None:
            raise InputError(
                f"{what}[{empty[0]}] has no tokens, and this tokenizer has no end, padding or "
                "unknown token to stand for it. Leave it out."
            )
        return fill_empty(found, empty, token)

    def _prepared(self, texts: Sequence[str], what: str) -> tuple[list[str], tuple[int, ...]]:
        """Return the texts as the library accepts them, and the indices of the repaired ones."""
        if isinstance(texts, str):
            raise InputError(f"{what} is a str; expected a sequence of str. Pass [{what}].")
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(_not_text(f"{what}[{index}]", text))
        repaired = tuple(index for index, text in enumerate(texts) if _has_surrogate(text))
        good = [SURROGATES.sub("\ufffd", text) for text in texts] if repaired else list(texts)
        return [text.lower() for text in good] if self.lowercase else good, repaired

    def _room(self, max_length: int, special: int, prompt: int, bodies: int = 1) -> int:
        """Return the tokens left for texts; InputError if there is not one for each body."""
        least = special + prompt + bodies
        if max_length < least:
            raise InputError(
                f"max_length={max_length} leaves no room for the text: {special} special and "
                f"{prompt} prompt tokens come with it. Use at least {least}."
            )
        return max_length - special


def _unzipped(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    """Return the first texts and the second texts of all pairs."""
    for index, pair in enumerate(pairs):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise InputError(
                f"pairs[{index}] is {_short(pair)}; expected two texts, (query, document)."
            )
        for text in pair:
            if not isinstance(text, str):
                raise InputError(_not_text(f"pairs[{index}]", text))
    return [query for query, _ in pairs], [document for _, document in pairs]


def _has_surrogate(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _truncated(
    found: Offsets, max_length: int, truncation: TruncationSide, partial: Collection[int]
) -> tuple[Truncated, ...]:
    """Return a record of each text longer than max_length tokens, or raise TruncationError.

    partial are the indices of texts that were not read to the end.
    """
    if truncation not in get_args(TruncationSide):
        raise InputError(
            f"truncation={truncation!r} is not known; expected one of {get_args(TruncationSide)}."
        )
    long = np.flatnonzero(found > max_length).tolist()
    records = tuple(Truncated(i, int(found[i]), max_length, i in partial) for i in long)
    if records and truncation == "error":
        named = ", ".join(f"{each.index} ({each.found_text} tokens)" for each in records[:NAMED])
        more = f" and {len(long) - NAMED} more" if len(long) > NAMED else ""
        raise TruncationError(
            f"{len(long)} of {len(found)} inputs have more than max_length={max_length} tokens: "
            f'{named}{more}. Shorten or split them, or pass truncation="right" or "left".'
        )
    return records


def _not_text(where: str, value: object) -> str:
    return f"{where} is {_short(value)}; expected a str. Convert or drop it."


def _short(value: object) -> str:
    """Return the type and the beginning of a value, for an error message."""
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"
