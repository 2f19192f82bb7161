"""A plan as a PyTorch module: the oracle of tests, the GPU engine, and the model that trains.

Names of parameters are the plan's slots. Architectures are defined in `arch`: nothing here depends
on the name of a model.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from opengte.arch.plan import (
    Attention,
    BucketBias,
    Dense,
    Embedding,
    LatentAttention,
    Layer,
    MaskedHead,
    Norm,
    Plan,
    ScoreHead,
    UnitLength,
)
from opengte.reference import layers
from opengte.reference.layers import PackedTensors

RotaryTables = dict[Attention, tuple[Tensor, Tensor]]


class NormLayer(nn.Module):
    """LayerNorm or RMSNorm with its weights."""

    def __init__(self, norm: Norm, width: int) -> None:
        super().__init__()
        self.norm = norm
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if norm.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis."""
        return layers.apply_norm(x, self.norm, self.weight, self.bias)


class DropoutLayer(nn.Module):
    """Dropout of hidden states; training sets p, which is 0 by default."""

    p = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Set values to zero at random in training mode."""
        return F.dropout(x, self.p) if self.training and self.p else x


class EmbeddingLayer(nn.Module):
    """Embedding: the sum of word, position and type vectors, normalised."""

    def __init__(self, plan: Embedding) -> None:
        super().__init__()
        self.plan = plan
        self.word = nn.Parameter(torch.empty(plan.vocabulary, plan.width))
        self.position = _table(plan.positions, plan.width)
        self.token_type = _table(plan.types, plan.width)
        self.norm = NormLayer(plan.norm, plan.width) if plan.norm else None
        self.projection = nn.Linear(plan.width, plan.projected) if plan.projected else None
        self.drop = DropoutLayer()

    def forward(self, packed: PackedTensors) -> Tensor:
        """Return the first states (T, C)."""
        x = layers.embedding_lookup(packed.ids, self.word)
        if self.plan.scale != 1.0:
            x = x * self.plan.scale
        if self.token_type is not None:
            x = x + F.embedding(packed.type_ids, self.token_type)
        if self.position is not None:
            rows = layers.position_rows(packed, self.plan.position_offset)
            x = x + F.embedding(rows, self.position)
        x = self.drop(self.norm(x) if self.norm else x)
        return x if self.projection is None else self.projection(x)  # type: ignore[no-any-return]


def _step(step: Dense | Norm | UnitLength, width: int) -> nn.Module:
    if isinstance(step, Dense):
        return nn.Linear(width, step.outputs, step.bias)
    return NormLayer(step, width) if isinstance(step, Norm) else nn.Identity()


def _norm(norm: Norm | None, width: int) -> NormLayer | None:
    return NormLayer(norm, width) if norm else None


def _table(rows: int, width: int) -> nn.Parameter | None:
    return nn.Parameter(torch.empty(rows, width)) if rows else None


class TransformerLayer(nn.Module):
    """One transformer layer."""

    def __init__(self, plan: Layer, width: int) -> None:
        super().__init__()
        self.plan = plan
        a, f = plan.attention, plan.ffn
        queries, keys = a.heads * a.head_dim, a.kv_heads * a.head_dim
        self.attention_norm = _norm(plan.attention_norm, width)
        self.qkv = nn.Linear(width, queries + 2 * keys, a.qkv_bias)
        self.q_norm = _norm(a.qk_norm, a.head_dim)
        self.k_norm = _norm(a.qk_norm, a.head_dim)
        self.out = nn.Linear(queries, width, a.out_bias)
        self.attention_out_norm = _norm(plan.attention_out_norm, width)
        self.ffn_norm = NormLayer(plan.ffn_norm, width)
        self.up = nn.Linear(width, f.inner * (2 if f.gated else 1), f.up_bias)
        self.down = nn.Linear(f.inner, width, f.down_bias)
        self.ffn_out_norm = _norm(plan.ffn_out_norm, width)
        self.drop = DropoutLayer()

    def forward(
        self, x: Tensor, packed: PackedTensors, rotary: RotaryTables, bias: Tensor | None
    ) -> Tensor:
        """Return the next states (T, C)."""
        if self.plan.post_norm:
            attended = x + self.attend(x, packed, rotary, bias)
            x = self.attention_norm(attended) if self.attention_norm else attended
            return self.ffn_norm(x + self.feed(x))  # type: ignore[no-any-return]
        normed = self.attention_norm(x) if self.attention_norm else x
        x = x + self.attend(normed, packed, rotary, bias)
        return x + self.feed(self.ffn_norm(x))

    def attend(
        self, x: Tensor, packed: PackedTensors, rotary: RotaryTables, bias: Tensor | None
    ) -> Tensor:
        """Apply multi-head attention."""
        a = self.plan.attention
        heads = self.qkv(x).view(len(x), a.heads + 2 * a.kv_heads, a.head_dim)
        q, k, v = heads.split((a.heads, a.kv_heads, a.kv_heads), dim=1)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if a.rope is not None:
            q, k = layers.rotate(q, rotary[a]), layers.rotate(k, rotary[a])
        if a.logn is not None:
            q = layers.scale_queries(q, a.logn, packed)
        attended: Tensor = self.out(layers.attend(q, k, v, packed, a, bias).flatten(1))
        if self.attention_out_norm is not None:
            attended = self.attention_out_norm(attended)
        return self.drop(attended)  # type: ignore[no-any-return]

    def feed(self, x: Tensor) -> Tensor:
        """Apply the feed-forward network."""
        f = self.plan.ffn
        inner = self.up(x)
        if f.gated:
            gate, up = inner.chunk(2, dim=-1)
            inner = layers.activate(gate, f.activation) * up
        else:
            inner = layers.activate(inner, f.activation)
        fed: Tensor = self.down(inner)
        if self.ffn_out_norm is not None:
            fed = self.ffn_out_norm(fed)
        return self.drop(fed)  # type: ignore[no-any-return]


class LatentPooling(nn.Module):
    """Latent-attention pooling (arXiv 2405.17428, section 3.1), without the final mean."""

    def __init__(self, plan: LatentAttention, width: int) -> None:
        super().__init__()
        self.plan = plan
        inner = plan.heads * plan.head_dim
        norm = Norm("layer", plan.eps, bias=True)
        self.latents = nn.Parameter(torch.empty(plan.latents, plan.latent_width))
        self.query_norm = NormLayer(norm, width)
        self.context_norm = NormLayer(norm, plan.latent_width)
        self.q = nn.Linear(width, inner, bias=False)
        self.kv = nn.Linear(plan.latent_width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.ffn_norm = NormLayer(norm, width)
        self.up = nn.Linear(width, 2 * plan.inner)
        self.down = nn.Linear(plan.inner, width)

    def forward(self, states: Tensor) -> Tensor:
        """Return token states (T, C) after attention to the latents and a feed-forward network."""
        heads = (self.plan.heads, self.plan.head_dim)
        q = self.q(self.query_norm(states)).unflatten(-1, heads).transpose(0, 1)
        k, v = self.kv(self.context_norm(self.latents)).chunk(2, dim=-1)
        k, v = (x.unflatten(-1, heads).transpose(0, 1) for x in (k, v))
        attended = F.scaled_dot_product_attention(q[None], k[None], v[None])[0]
        states = states + self.out(attended.transpose(0, 1).flatten(1))
        gate, up = self.up(self.ffn_norm(states)).chunk(2, dim=-1)
        return states + self.down(F.gelu(gate) * up)  # type: ignore[no-any-return]


class ScoreLayer(nn.Module):
    """A reranker's head: one score for each sequence."""

    def __init__(self, plan: ScoreHead, width: int) -> None:
        super().__init__()
        self.plan = plan
        self.dense = nn.Linear(width, plan.dense.outputs, plan.dense.bias) if plan.dense else None
        width = plan.dense.outputs if plan.dense else width
        self.norm = NormLayer(plan.norm, width) if plan.norm else None
        self.out = nn.Linear(width, plan.outputs, plan.bias)

    def forward(self, states: Tensor, packed: PackedTensors) -> Tensor:
        """Return scores (N,): a logit, or the probability of the first vocabulary row.

        With `every`, all logits (N, outputs).
        """
        logits = self._outputs(states, packed)
        if self.plan.every:
            return logits
        scores = logits.softmax(dim=-1) if self.plan.vocabulary_rows else logits
        return scores[:, 0]

    def logits(self, states: Tensor, packed: PackedTensors) -> Tensor:
        """Return logits (N,); with vocabulary rows, the first logit minus the second."""
        logits = self._outputs(states, packed)
        return logits[:, 0] - logits[:, 1] if self.plan.vocabulary_rows else logits[:, 0]

    def _outputs(self, states: Tensor, packed: PackedTensors) -> Tensor:
        x = layers.pool(states, packed, self.plan.pooling)
        if self.dense is not None and self.plan.dense is not None:
            x = layers.activate(self.dense(x), self.plan.dense.activation)
        if self.norm is not None:
            x = self.norm(x)
        outputs: Tensor = self.out(x)
        return outputs.to(layers.accumulation_dtype(outputs.dtype))


class MaskedLanguageHead(nn.Module):
    """The head for masked language modelling, without the word vectors, which it shares."""

    def __init__(self, plan: MaskedHead, vocabulary: int, width: int) -> None:
        super().__init__()
        self.plan = plan
        self.dense = nn.Linear(width, plan.dense.outputs, plan.dense.bias)
        self.norm = NormLayer(plan.norm, plan.dense.outputs)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, states: Tensor) -> Tensor:
        """Return the vectors (m, C) to multiply with the word vectors."""
        activation = self.plan.dense.activation
        x: Tensor = self.norm(layers.activate(self.dense(states), activation))
        return x


class TokenProjection(nn.Linear):
    """One of the projections of token states for late interaction."""

    def __init__(self, dense: Dense, width: int) -> None:
        super().__init__(width, dense.outputs, dense.bias)
        self.dense = dense
        shortcut = dense.residual and dense.outputs != width
        self.residual = nn.Linear(width, dense.outputs, bias=False) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """Project states (..., C) to (..., d)."""
        y = layers.activate(super().forward(x), self.dense.activation)
        if self.dense.residual:
            y = y + (x if self.residual is None else self.residual(x))
        return y


def _token_head(plan: Plan) -> nn.Linear | nn.ModuleList | None:
    """Return the projections of late-interaction vectors: one, or a list of those named so."""
    if plan.token_dense is None:
        return nn.Linear(plan.width, plan.token_width) if plan.token_width else None
    widths = [plan.width, *(dense.outputs for dense in plan.token_dense)]
    return nn.ModuleList(map(TokenProjection, plan.token_dense, widths))


class ReferenceModel(nn.Module):
    """A whole network with its pooling and heads.

    With `recompute`, a layer stores only its input for the backward pass and runs again there.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.recompute = False
        self.plan = plan
        self.embedding = EmbeddingLayer(plan.embedding)
        bias = plan.position_bias
        self.position_bias = (
            _table(bias.buckets, plan.layers[0].attention.heads)
            if isinstance(bias, BucketBias)
            else None
        )
        self.layers = nn.ModuleList(TransformerLayer(layer, plan.width) for layer in plan.layers)
        self.final_norm = NormLayer(plan.final_norm, plan.width) if plan.final_norm else None
        self.latent = LatentPooling(plan.latent, plan.width) if plan.latent else None
        self.dense = nn.ModuleList(
            _step(step, width) for step, width in zip(plan.dense, plan.widths, strict=False)
        )
        mixed = len(plan.layers) + 1 - plan.layer_mix.start if plan.layer_mix else 0
        self.layer_mix = nn.Parameter(torch.ones(mixed)) if mixed else None
        self.sparse = nn.Linear(plan.width, 1) if plan.sparse else None
        self.tokens = _token_head(plan)
        self.score = ScoreLayer(plan.score, plan.width) if plan.score else None
        words = plan.embedding.vocabulary
        self.masked = MaskedLanguageHead(plan.masked, words, plan.width) if plan.masked else None

    def forward(self, packed: PackedTensors) -> Tensor:
        """Return the final token states (T, C)."""
        rotary = self._rotary_tables(packed)
        bias = self._bias_table(packed)
        x = self.embedding(packed)
        recompute = self.recompute and torch.is_grad_enabled()
        states = [x]
        for layer in self.layers:
            if recompute:
                x = checkpoint(layer, x, packed, rotary, bias, use_reentrant=False)
            else:
                x = layer(x, packed, rotary, bias)
            if self.layer_mix is not None:
                states.append(x)
        x = self.final_norm(x) if self.final_norm else x
        return x if self.layer_mix is None else self._mixed([*states[:-1], x])

    def _mixed(self, states: list[Tensor]) -> Tensor:
        """Return the mean of the states of several layers (T, C) by their learned weights."""
        assert self.plan.layer_mix is not None and self.layer_mix is not None
        shares = (self.layer_mix / self.layer_mix.sum())[:, None, None]
        return (torch.stack(states[self.plan.layer_mix.start :]) * shares).sum(0)

    def _rotary_tables(self, packed: PackedTensors) -> RotaryTables:
        attentions = {layer.attention for layer in self.plan.layers}
        dtype = layers.accumulation_dtype(self.embedding.word.dtype)
        return {
            a: layers.rotary_table(a.rope, a.head_dim, packed.positions, dtype)
            for a in attentions
            if a.rope is not None
        }

    def _bias_table(self, packed: PackedTensors) -> Tensor | None:
        kind = self.plan.position_bias
        if kind is None or not packed.longest:
            return None
        heads, word = self.plan.layers[0].attention.heads, self.embedding.word
        return layers.bias_table(kind, self.position_bias, heads, packed.longest, word)

    def pool(self, states: Tensor, packed: PackedTensors) -> Tensor:
        """Return the projected dense vectors (N, d) of final states, not normalised."""
        kinds = self.plan.poolings
        if self.latent is not None:
            states, kinds = self.latent(states), ("mean",)
        x = torch.cat([layers.pool(states, packed, kind) for kind in kinds], dim=-1)
        for module, step in zip(self.dense, self.plan.dense, strict=True):
            x = F.normalize(x, dim=-1) if isinstance(step, UnitLength) else module(x)
            if isinstance(step, Dense):
                x = layers.activate(x, step.activation)
        return x

    def sparse_weights(self, states: Tensor) -> Tensor:
        """Return the weight of each token (T,), never negative."""
        assert self.sparse is not None
        return F.relu(self.sparse(states)).squeeze(-1)

    def token_vectors(self, states: Tensor) -> Tensor:
        """Return the late-interaction vector of each token (T, d'), not normalised."""
        if isinstance(self.tokens, nn.Linear):
            vectors: Tensor = self.tokens(states)
            return vectors
        for layer in self.tokens or ():
            states = layer(states)
        return states

    def scores(self, states: Tensor, packed: PackedTensors) -> Tensor:
        """Return the reranking scores (N,) of final states."""
        assert self.score is not None
        scores: Tensor = self.score(states, packed)
        return scores

    def score_logits(self, states: Tensor, packed: PackedTensors) -> Tensor:
        """Return the reranking logits (N,) of final states, for training."""
        assert self.score is not None
        return self.score.logits(states, packed)
