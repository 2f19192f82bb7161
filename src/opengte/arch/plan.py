"""The vocabulary in which architectures are described.

A `Plan` describes a network: its embedding, layers, pooling and heads. It holds no weights, names
no checkpoint tensor and imports nothing heavy; every engine interprets it. A field exists only if
two supported checkpoints differ in it. A model's fingerprint hashes the repr of its plan, so that
the names of classes and fields must not change; a field that was added later is in the repr
only where it has another value than its default.

Weights are addressed by *slots*, canonical names that every engine uses (`Plan.slots`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Activation = Literal["gelu", "gelu_tanh", "silu", "relu", "tanh", "identity"]
PoolingKind = Literal["cls", "mean", "last", "latent", "max", "mean_sqrt", "weighted"]
Pooling = PoolingKind | tuple[PoolingKind, ...]  # several are put end to end

UNLIMITED = 1 << 30  # tokens of a sequence, where a network takes any number


def _later(default: Any = None) -> Any:
    return field(default=default, metadata={"later": True})


class _Described:
    """A record whose repr leaves out later fields that have their defaults."""

    def __repr__(self) -> str:
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)  # type: ignore[arg-type]
            if f.repr and not ("later" in f.metadata and getattr(self, f.name) == f.default)
        ]
        return f"{type(self).__qualname__}({', '.join(shown)})"


@dataclass(frozen=True)
class Norm:
    """LayerNorm (`layer`) or RMSNorm (`rms`, arXiv 1910.07467), with its epsilon."""

    kind: Literal["layer", "rms"]
    eps: float
    bias: bool


@dataclass(frozen=True, repr=False)
class Rope(_Described):
    """Rotary position embedding (arXiv 2104.09864) in the half-split layout.

    `ntk_factor` is the fixed NTK scaling of the `new` architecture, applied at every length.
    `mixed_b` selects the variant whose divisor grows with the frequency index (kexue.fm 9706).
    `frequencies`, where given, are those of another scaling (`arch.rope_scaling`); `magnitude`
    multiplies sines and cosines (YaRN, arXiv 2309.00071).
    """

    theta: float
    ntk_factor: float = 1.0
    mixed_b: float | None = None
    frequencies: tuple[float, ...] | None = _later()
    magnitude: float = _later(1.0)

    def inverse_frequencies(self, head_dim: int) -> tuple[float, ...]:
        """Return the head_dim / 2 angular frequencies, in radians per position."""
        if self.frequencies is not None:
            return self.frequencies
        half = head_dim // 2
        base = [self.theta ** (-2 * i / head_dim) for i in range(half)]
        if self.ntk_factor == 1.0:
            return tuple(base)
        if self.mixed_b is None:
            return tuple(
                f * self.ntk_factor ** (-2 * (i + 1) / head_dim) for i, f in enumerate(base)
            )
        a = math.log(self.ntk_factor) / half**self.mixed_b
        return tuple(f / math.exp(a * (i + 1) ** self.mixed_b) for i, f in enumerate(base))


@dataclass(frozen=True, repr=False)
class Embedding(_Described):
    """Word vectors times `scale`, and learned positions and token types if the network has them."""

    vocabulary: int
    width: int
    positions: int  # 0: no learned positions
    position_offset: int  # position of a sequence's first token (XLM-R: 2)
    types: int  # 0: no token types
    norm: Norm | None
    scale: float = _later(1.0)
    projected: int | None = _later()  # the width of states; None: that of the vectors


@dataclass(frozen=True)
class LogN:
    """Scaling of queries by log(tokens) / log(trained length), optionally at least one."""

    trained_length: int
    at_least_one: bool


@dataclass(frozen=True)
class BucketBias:
    """A learned number for each head and bucket of distances, added to scores (T5, MPNet).

    Half of the buckets are for keys after the query. Of each half, one half is for single
    distances, the other one for ranges that grow exponentially up to `max_distance`
    (arXiv 1910.10683, section 2.1).
    """

    buckets: int
    max_distance: int

    def bucket(self, distance: int) -> int:
        """Return the bucket of a key at query + distance."""
        half, away = self.buckets // 2, abs(distance)
        exact = half // 2
        if away >= exact:
            share = math.log(away / exact) / math.log(self.max_distance / exact)
            away = min(exact + int(share * (half - exact)), half - 1)
        return away + (half if distance > 0 else 0)


@dataclass(frozen=True)
class LinearBias:
    """ALiBi (arXiv 2108.12409), in both directions: -slope * distance, with a slope a head."""

    def slopes(self, heads: int) -> tuple[float, ...]:
        """Return the slope of each head: powers of two where the heads are."""
        power = 1 << (heads.bit_length() - 1)
        found = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
        between = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(heads - power)]
        return tuple(found + between)


@dataclass(frozen=True, repr=False)
class Attention(_Described):
    """Multi-head attention with grouped key-value heads (arXiv 2305.13245).

    Scores are multiplied by `scale`, by default 1 / sqrt(head_dim).
    """

    heads: int
    kv_heads: int
    head_dim: int
    qkv_bias: bool
    out_bias: bool
    causal: bool
    rope: Rope | None
    window: int | None  # a token attends to tokens at most this far away; None: to all
    qk_norm: Norm | None
    logn: LogN | None
    scale: float | None = _later()


@dataclass(frozen=True)
class FeedForward:
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` if gated."""

    inner: int
    gated: bool
    activation: Activation
    up_bias: bool
    down_bias: bool


@dataclass(frozen=True, repr=False)
class Layer(_Described):
    """One transformer layer; norms come after each residual sum if post_norm, otherwise before.

    `attention_out_norm` and `ffn_out_norm` apply to what is added to the residual (Gemma).
    """

    post_norm: bool
    attention_norm: Norm | None
    attention: Attention
    ffn_norm: Norm
    ffn: FeedForward
    attention_out_norm: Norm | None = _later()
    ffn_out_norm: Norm | None = _later()


@dataclass(frozen=True)
class LatentAttention:
    """Latent-attention pooling of NV-Embed (arXiv 2405.17428): tokens attend to learned latents."""

    latents: int
    latent_width: int
    heads: int
    head_dim: int
    inner: int
    eps: float


@dataclass(frozen=True, repr=False)
class Dense(_Described):
    """A projection of the pooled vector, or of each token's state for late interaction.

    If `residual`, the input is added, through a matrix of its own where the widths differ.
    """

    outputs: int
    bias: bool
    activation: Activation
    residual: bool = _later(False)


@dataclass(frozen=True)
class UnitLength:
    """Scaling of the pooled vector to unit length."""


@dataclass(frozen=True)
class LayerMix:
    """The mean of the states after each of the layers from `start`, with learned weights.

    0 is the embedding. After the last layer, the final norm has been applied.
    """

    start: int


@dataclass(frozen=True, repr=False)
class ScoreHead(_Described):
    """A reranker's head: pooling, an optional dense layer with activation and norm, then logits.

    With `vocabulary_rows`, the output weights are these rows of the vocabulary matrix (yes, no),
    and the score is the probability of the first one. With `every`, the scores are all logits, one
    for each class. Otherwise the score is the first logit.
    """

    pooling: PoolingKind
    dense: Dense | None
    norm: Norm | None
    outputs: int
    bias: bool
    vocabulary_rows: tuple[int, ...] | None = None
    every: bool = _later(False)


@dataclass(frozen=True)
class MaskedHead:
    """The head for masked language modelling: dense, activation, norm, then the word vectors.

    Only training uses it. Its output bias has one value for each word.
    """

    dense: Dense
    norm: Norm


@dataclass(frozen=True)
class Slot:
    """One weight: its shape, and the rows of each part that may be a tensor of its own."""

    shape: tuple[int, ...]
    parts: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class Plan(_Described):
    """A whole network: what engines execute."""

    architecture: str
    embedding: Embedding
    layers: tuple[Layer, ...]
    final_norm: Norm | None
    max_positions: int  # tokens a sequence may have, special tokens included
    pooling: Pooling | None = None  # None: other files of the checkpoint say it
    latent: LatentAttention | None = None
    dense: tuple[Dense | Norm | UnitLength, ...] = ()  # what happens to the pooled vector
    sparse: bool = False  # a ReLU(Linear) weight per token
    token_width: int = 0  # width of the late-interaction vectors; 0: no such head
    score: ScoreHead | None = None
    # no vector depends on it, so it is not part of the repr, which fingerprints hash
    masked: MaskedHead | None = field(default=None, repr=False)
    position_bias: BucketBias | LinearBias | None = _later()  # shared by all layers
    # late interaction: the projections of token states; None: one matrix with a bias (bge-m3)
    token_dense: tuple[Dense, ...] | None = _later()
    layer_mix: LayerMix | None = _later()  # of what is pooled, instead of the last states

    @property
    def width(self) -> int:
        """Return the width of a token state."""
        return self.embedding.projected or self.embedding.width

    @property
    def poolings(self) -> tuple[PoolingKind, ...]:
        """Return the kinds of pooling whose results are put end to end."""
        if self.pooling is None:
            return ()
        return (self.pooling,) if isinstance(self.pooling, str) else self.pooling

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the widths of the pooled vector, before each of its steps and after the last."""
        found = [self.width * max(1, len(self.poolings))]
        for step in self.dense:
            found.append(step.outputs if isinstance(step, Dense) else found[-1])
        return tuple(found)

    @property
    def dimension(self) -> int:
        """Return the width of a dense vector, or of a token's if there are only those."""
        return self.token_width if self.token_dense is not None else self.widths[-1]

    @property
    def token_head(self) -> tuple[tuple[str, Dense], ...]:
        """Return the projections of late-interaction vectors, each with the name of its slots."""
        if self.token_dense is not None:
            return tuple((f"tokens.{i}", dense) for i, dense in enumerate(self.token_dense))
        return (("tokens", Dense(self.token_width, True, "identity")),) if self.token_width else ()

    def slots(self) -> dict[str, Slot]:
        """Return all weights of the network by canonical name, in execution order."""
        return dict(_plan_slots(self))

    @property
    def parameters(self) -> int:
        """Return the number of weights of the network."""
        total = 0
        for slot in self.slots().values():
            size = 1
            for extent in slot.shape:
                size *= extent
            total += size
        return total


def _whole(*shape: int) -> Slot:
    return Slot(shape, (shape[0],))


def _norm_slots(name: str, norm: Norm | None, width: int) -> Iterator[tuple[str, Slot]]:
    if norm is None:
        return
    yield f"{name}.weight", _whole(width)
    if norm.bias:
        yield f"{name}.bias", _whole(width)


def _linear_slots(
    name: str, parts: tuple[int, ...], inputs: int, bias: bool
) -> Iterator[tuple[str, Slot]]:
    yield f"{name}.weight", Slot((sum(parts), inputs), parts)
    if bias:
        yield f"{name}.bias", Slot((sum(parts),), parts)


def _embedding_slots(embedding: Embedding) -> Iterator[tuple[str, Slot]]:
    yield "embedding.word", _whole(embedding.vocabulary, embedding.width)
    if embedding.positions:
        yield "embedding.position", _whole(embedding.positions, embedding.width)
    if embedding.types:
        yield "embedding.token_type", _whole(embedding.types, embedding.width)
    yield from _norm_slots("embedding.norm", embedding.norm, embedding.width)
    if embedding.projected is not None:
        yield from _linear_slots(
            "embedding.projection", (embedding.projected,), embedding.width, bias=True
        )


def _layer_slots(name: str, layer: Layer, width: int) -> Iterator[tuple[str, Slot]]:
    attention, ffn = layer.attention, layer.ffn
    queries, keys = attention.heads * attention.head_dim, attention.kv_heads * attention.head_dim
    yield from _norm_slots(f"{name}.attention_norm", layer.attention_norm, width)
    yield from _linear_slots(f"{name}.qkv", (queries, keys, keys), width, attention.qkv_bias)
    yield from _norm_slots(f"{name}.q_norm", attention.qk_norm, attention.head_dim)
    yield from _norm_slots(f"{name}.k_norm", attention.qk_norm, attention.head_dim)
    yield from _linear_slots(f"{name}.out", (width,), queries, attention.out_bias)
    yield from _norm_slots(f"{name}.attention_out_norm", layer.attention_out_norm, width)
    yield from _norm_slots(f"{name}.ffn_norm", layer.ffn_norm, width)
    up = (ffn.inner, ffn.inner) if ffn.gated else (ffn.inner,)
    yield from _linear_slots(f"{name}.up", up, width, ffn.up_bias)  # gated: gate rows, then up rows
    yield from _linear_slots(f"{name}.down", (width,), ffn.inner, ffn.down_bias)
    yield from _norm_slots(f"{name}.ffn_out_norm", layer.ffn_out_norm, width)


def _latent_slots(latent: LatentAttention, width: int) -> Iterator[tuple[str, Slot]]:
    inner = latent.heads * latent.head_dim
    norm = Norm("layer", latent.eps, bias=True)
    yield "latent.latents", _whole(latent.latents, latent.latent_width)
    yield from _norm_slots("latent.query_norm", norm, width)
    yield from _norm_slots("latent.context_norm", norm, latent.latent_width)
    yield from _linear_slots("latent.q", (inner,), width, bias=False)
    yield from _linear_slots("latent.kv", (inner, inner), latent.latent_width, bias=False)
    yield from _linear_slots("latent.out", (width,), inner, bias=False)
    yield from _norm_slots("latent.ffn_norm", norm, width)
    yield from _linear_slots("latent.up", (latent.inner, latent.inner), width, bias=True)
    yield from _linear_slots("latent.down", (width,), latent.inner, bias=True)


def _score_slots(score: ScoreHead, width: int) -> Iterator[tuple[str, Slot]]:
    if score.dense is not None:
        yield from _linear_slots("score.dense", (score.dense.outputs,), width, score.dense.bias)
        width = score.dense.outputs
    yield from _norm_slots("score.norm", score.norm, width)
    yield from _linear_slots("score.out", (score.outputs,), width, score.bias)


def _masked_slots(masked: MaskedHead, plan: Plan) -> Iterator[tuple[str, Slot]]:
    dense = masked.dense
    yield from _linear_slots("masked.dense", (dense.outputs,), plan.width, dense.bias)
    yield from _norm_slots("masked.norm", masked.norm, dense.outputs)
    yield "masked.bias", _whole(plan.embedding.vocabulary)


def _pooled_slots(plan: Plan) -> Iterator[tuple[str, Slot]]:
    for i, (step, width) in enumerate(zip(plan.dense, plan.widths, strict=False)):
        if isinstance(step, Dense):
            yield from _linear_slots(f"dense.{i}", (step.outputs,), width, step.bias)
        elif isinstance(step, Norm):
            yield from _norm_slots(f"dense.{i}", step, width)
    if plan.layer_mix is not None:
        yield "layer_mix", _whole(len(plan.layers) + 1 - plan.layer_mix.start)


def _plan_slots(plan: Plan) -> Iterator[tuple[str, Slot]]:
    yield from _embedding_slots(plan.embedding)
    if isinstance(plan.position_bias, BucketBias):
        yield "position_bias", _whole(plan.position_bias.buckets, plan.layers[0].attention.heads)
    for i, layer in enumerate(plan.layers):
        yield from _layer_slots(f"layers.{i}", layer, plan.width)
    yield from _norm_slots("final_norm", plan.final_norm, plan.width)
    if plan.latent is not None:
        yield from _latent_slots(plan.latent, plan.width)
    yield from _pooled_slots(plan)
    if plan.sparse:
        yield from _linear_slots("sparse", (1,), plan.width, bias=True)
    width = plan.width
    for name, dense in plan.token_head:
        yield from _linear_slots(name, (dense.outputs,), width, dense.bias)
        if dense.residual and dense.outputs != width:
            yield f"{name}.residual.weight", _whole(dense.outputs, width)
        width = dense.outputs
    if plan.score is not None:
        yield from _score_slots(plan.score, plan.width)
    if plan.masked is not None:
        yield from _masked_slots(plan.masked, plan)
