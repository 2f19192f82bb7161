"""Tokenisation of a source's texts: with the model's prompts, or in pieces for raw texts."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from opengte.data.examples import SourceKind
from opengte.data.reading.sources import SourceSpec
from opengte.errors import InputError
from opengte.tokenization import Prompts, Tokenizer
from opengte.types import Ints, PackedBatch

WHOLE = 2**30  # tokens: more than any text has


@dataclass(frozen=True, eq=False)
class SourceTokenizer:
    """A tokenizer, prompts, and the maximum tokens of queries and of documents.

    >>> from opengte import checkpoint
    >>> start = checkpoint.read_checkpoint(folder)
    >>> SourceTokenizer(start.tokenizer, start.prompts, 64, 256).document_tokens
    256
    """

    tokenizer: Tokenizer
    prompts: Prompts
    query_tokens: int
    document_tokens: int

    def prefixes(self, spec: SourceSpec, kind: SourceKind) -> tuple[str, str]:
        """Return the prefixes of queries and of documents.

        For pairs, queries get the instruction or the query prompt. For symmetric tasks (labelled,
        scored) both sides get the prefix of a text without a role. Raw texts get none.
        """
        if kind == "texts":
            if spec.instruction is not None:
                raise InputError(
                    f"source `{spec.name}` holds raw texts, which take no instruction. "
                    "Leave it out."
                )
            return "", ""
        if kind == "pairs":
            query = self.prompts.prefix("query", spec.instruction)
            return query, self.prompts.prefix("document")
        both = self.prompts.prefix(None, spec.instruction)
        return both, both

    def encode(self, texts: Sequence[str], prefix: str, query: bool) -> "TokenizedTexts":
        """Return texts as ids, truncated to the maximum of their side."""
        limit = self.query_tokens if query else self.document_tokens
        encoded = self.tokenizer.encode(
            texts, prompt=prefix, max_length=limit, mask=self.prompts.mask
        )
        before = encoded.batch.lengths.astype(np.int64)
        for record in encoded.truncated:
            before[record.index] = record.found
        return TokenizedTexts(
            encoded.batch, before.tolist(), frozenset(r.index for r in encoded.truncated)
        )

    def pieces(self, text: str) -> list[Ints]:
        """Return a raw text as consecutive sequences of at most `document_tokens` tokens."""
        batch = self.tokenizer.encode([text], max_length=WHOLE).batch
        head, tail = (len(part) for part in self.tokenizer.single.specials)
        body = batch.ids[head : len(batch.ids) - tail]
        size = self.document_tokens - head - tail
        edges = batch.ids[:head], batch.ids[len(batch.ids) - tail :]
        return [
            np.concatenate([edges[0], body[start : start + size], edges[1]])
            for start in range(0, len(body), size)
        ]


@dataclass(frozen=True, eq=False)
class TokenizedTexts:
    """Texts as ids, the tokens of each before truncation, and which were truncated."""

    batch: PackedBatch
    found: list[int]
    cut: frozenset[int]

    def __iter__(self) -> Iterator[tuple[Ints, int, bool]]:
        """Yield the ids of each text, its tokens before truncation, and whether it was cut."""
        starts = self.batch.cu_seqlens.tolist()
        for index, found in enumerate(self.found):
            ids = self.batch.ids[starts[index] : starts[index + 1]]
            yield ids, found, index in self.cut

    @property
    def pool_from(self) -> int:
        """Return the number of leading tokens that pooling leaves out of a long enough text."""
        return int(self.batch.pool_from.max(initial=0))


def text_key(text: str, query: bool) -> bytes:
    """Return a key that two texts share if they are equal and on the same side."""
    content = text.encode("utf-8", "surrogatepass")
    return (b"q" if query else b"d") + hashlib.blake2b(content, digest_size=16).digest()
