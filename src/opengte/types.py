"""Records that pass between the parts: token sequences, batches, results, the model card.

Letters in shapes: n texts, t tokens of all texts together, d width of a dense vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

Role = Literal["query", "document"]
Output = Literal["dense", "sparse", "tokens", "states"]
TruncationSide = Literal["right", "left", "error"]

# What pooling leaves out of a text with a prompt. none: nothing; prompt: the prompt and the special
# tokens before it (sentence-transformers); positions: as many leading positions as the prompt has
# tokens on its own (NV-Embed).
PromptMask = Literal["none", "prompt", "positions"]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Sequences end to end, without padding: what an engine computes.

    Attributes:
        ids: Token ids (t,) int32.
        cu_seqlens: Boundaries (n + 1,) int32; sequence i is ids[cu_seqlens[i]:cu_seqlens[i + 1]].
        type_ids: Token types (t,) int32.
        pool_from: How many leading tokens pooling leaves out of each sequence, (n,) int32.
        attended: How many leading tokens of each sequence are attended to, (n,) int32: the tokens
            after them, which expand the queries of late interaction, see but are not seen. None:
            all of them.
    """

    ids: Ints
    cu_seqlens: Ints
    type_ids: Ints
    pool_from: Ints
    attended: Ints | None = None

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> Ints:
        """Return the number of tokens of each sequence, (n,) int32."""
        return np.diff(self.cu_seqlens).astype(np.int32, copy=False)

    def select(self, indices: npt.NDArray[np.intp]) -> "PackedBatch":
        """Return the sequences at these indices, in this order, as a new batch."""
        starts, lengths = self.cu_seqlens[indices], self.lengths[indices]
        cu_seqlens = np.zeros(len(indices) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        flat = np.repeat(starts - cu_seqlens[:-1], lengths) + np.arange(cu_seqlens[-1])
        attended = None if self.attended is None else self.attended[indices]
        return PackedBatch(
            self.ids[flat], cu_seqlens, self.type_ids[flat], self.pool_from[indices], attended
        )


@dataclass(frozen=True)
class Truncated:
    """One input that lost tokens.

    Attributes:
        index: Its index in the input.
        found: Its tokens before truncation, special tokens included.
        kept: Its tokens after truncation, special tokens included.
        at_least: Whether `found` is a lower bound: of a text of more than 65,536 characters, only
            the part that the kept tokens depend on is read.
    """

    index: int
    found: int
    kept: int
    at_least: bool = False

    @property
    def found_text(self) -> str:
        """Return `found` in words: "602", or "at least 602"."""
        return f"at least {self.found}" if self.at_least else str(self.found)


@dataclass(frozen=True, eq=False)
class Tokenized:
    """Texts as token sequences.

    Attributes:
        batch: The sequences, one for each text.
        truncated: The inputs that lost tokens.
        repaired: The indices of inputs with lone surrogates, which no tokenizer can encode and
            which were replaced by U+FFFD.
    """

    batch: PackedBatch
    truncated: tuple[Truncated, ...] = ()
    repaired: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The result of `Encoder.embed`, in input order; an output that was not requested is None.

    Attributes:
        dense: Vectors (n, d) float32, L2-normalised.
        sparse: For each text, the positive weight of each token id.
        tokens: For each text, late-interaction vectors (length, width) float32, L2-normalised.
        states: For each text, the final token states (length, width) float32.
        token_counts: Tokens of each text as computed, special tokens included, (n,) int32.
        truncated: The texts that lost tokens.
        repaired: The indices of texts whose lone surrogates were replaced by U+FFFD.

    >>> result = encoder.embed(["a cat", "a dog"])
    >>> len(result), result.dense.shape, result.sparse is None
    (2, (2, 384), True)
    """

    dense: Floats | None
    sparse: tuple[dict[int, float], ...] | None
    tokens: tuple[Floats, ...] | None
    states: tuple[Floats, ...] | None
    token_counts: Ints
    truncated: tuple[Truncated, ...]
    repaired: tuple[int, ...]

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.token_counts)


@dataclass(frozen=True)
class Ranked:
    """One document ranked by a reranker: its index in the input, its score and its text."""

    index: int
    score: float
    text: str


@dataclass(frozen=True)
class ModelCard:
    """What a model is, and how it runs once an engine has loaded it.

    Attributes:
        name: The name that the model was loaded by.
        source: The folder, the repository and commit, or the package that it came from.
        kind: `encoder` or `reranker`.
        architecture: The architecture, such as `bert` or `qwen3`.
        layers: The number of transformer layers.
        dimension: The width of a dense vector; 1 for a reranker.
        max_length: The tokens that the model reads of a text, special tokens included.
        pooling: How token states become one vector: `cls`, `mean`, `last` or `latent`.
        outputs: What `Encoder.embed` can compute.
        prompts: For each role, the text put in front of an input.
        instruction_template: Has `{instruction}`; None: the model takes no instructions.
        default_instruction: The instruction of queries that come without one.
        dimensions: Matryoshka sizes, listed or as a range "A..B"; empty: none.
        parameters: The number of weights.
        stored_dtype: The dtype of the weight files.
        licence: The licence that the files or the table of published models name.
        fingerprint: 32 hexadecimal digits that change with anything that changes a vector.
        labels: The classes of a classifier of pairs with several of them.
        query_fingerprint: The same of the encoder of queries, where they have one of their own.
        late: How token vectors are made and scored (late interaction); None: there are none.
        engine: `native` or `torch`; None, like the rest, until an engine has loaded the model.
        precision: The precision that the engine computes in.
        device: The device that it computes on.
        threads: The CPU threads that it uses.

    >>> encoder.card.dimension, encoder.card.max_length, encoder.card.pooling
    (384, 512, 'mean')
    """

    name: str
    source: str
    kind: Literal["encoder", "reranker"]
    architecture: str
    layers: int
    dimension: int
    max_length: int
    pooling: str
    outputs: tuple[Output, ...]
    prompts: Mapping[str, str]
    instruction_template: str | None
    default_instruction: str | None
    dimensions: tuple[int, ...] | str
    parameters: int
    stored_dtype: str
    licence: str | None
    fingerprint: str
    late: Mapping[str, Any] | None = None
    labels: tuple[str, ...] = ()
    query_fingerprint: str | None = None
    engine: str | None = None
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
