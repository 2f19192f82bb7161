"""Records that pass between the parts: token sequences, batches, results, the model card.

Letters in shapes: n texts, t tokens in all, d width of a dense vector.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]

Role = Literal["query", "document"]
Output = Literal["dense", "sparse", "tokens", "states"]
TruncationSide = Literal["right", "left", "error"]

# what the pooling leaves out of a prompted text: nothing; the prompt and the special tokens before
# it (sentence-transformers); as many leading positions as the prompt alone has tokens (NV-Embed)
PromptMask = Literal["none", "prompt", "positions"]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Sequences laid end to end, without padding: what an engine computes on.

    ids (t,) int32; cu_seqlens (n + 1,) int32: sequence i is ids[cu_seqlens[i]:cu_seqlens[i + 1]];
    type_ids (t,) int32, token types; pool_from (n,) int32, how many leading tokens of each sequence
    the pooling leaves out.
    """

    ids: Ints
    cu_seqlens: Ints
    type_ids: Ints
    pool_from: Ints

    def __len__(self) -> int:
        """Return the number of sequences."""
        return len(self.cu_seqlens) - 1

    @property
    def lengths(self) -> Ints:
        """Return the tokens of each sequence, (n,) int32."""
        return np.diff(self.cu_seqlens).astype(np.int32, copy=False)

    def select(self, indices: npt.NDArray[np.intp]) -> "PackedBatch":
        """Return the given sequences, in the given order, as a batch of their own."""
        starts, lengths = self.cu_seqlens[indices], self.lengths[indices]
        cu_seqlens = np.zeros(len(indices) + 1, dtype=np.int32)
        np.cumsum(lengths, out=cu_seqlens[1:])
        flat = np.repeat(starts - cu_seqlens[:-1], lengths) + np.arange(cu_seqlens[-1])
        return PackedBatch(self.ids[flat], cu_seqlens, self.type_ids[flat], self.pool_from[indices])


@dataclass(frozen=True)
class Truncated:
    """One input that lost tokens: its index, tokens before and after, special tokens included."""

    index: int
    found: int
    kept: int


@dataclass(frozen=True, eq=False)
class Tokenized:
    """Texts as token sequences, with what happened to them on the way.

    truncated names the inputs that lost tokens; repaired the inputs whose lone surrogates, which no
    tokenizer can encode, were replaced by U+FFFD.
    """

    batch: PackedBatch
    truncated: tuple[Truncated, ...] = ()
    repaired: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The result of `Encoder.embed`, in input order; what was not asked for is None.

    dense (n, d) float32, L2-normalised; sparse, per text {token id: weight > 0}; tokens, per text
    (length, width) float32 late-interaction vectors, L2-normalised; states, per text
    (length, width) float32 final token states; token_counts (n,) int32, as computed, special
    tokens included.
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
    """One document in a reranker's order: its index in the input, its score, its text."""

    index: int
    score: float
    text: str


@dataclass(frozen=True)
class ModelCard:
    """What a loaded model is and how it is run."""

    name: str
    source: str  # the folder, repository and revision, or package that it came from
    kind: Literal["encoder", "reranker"]
    architecture: str
    layers: int
    dimension: int
    max_length: int  # tokens, special tokens included
    pooling: str
    outputs: tuple[Output, ...]
    prompts: Mapping[str, str]  # role -> text put before the input
    instruction_template: str | None  # has {instruction}; None: the model takes no instructions
    default_instruction: str | None
    dimensions: tuple[int, ...] | str  # Matryoshka sizes: listed, or "A..B"; empty: none
    parameters: int
    stored_dtype: str
    licence: str | None
    fingerprint: str
    engine: str | None = None  # None until an engine has loaded the model
    precision: str | None = None
    device: str | None = None
    threads: int | None = None
