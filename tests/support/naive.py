"""The networks that transformers has no class for, written as slowly and plainly as possible.

Float64 NumPy, one sequence at a time, no batching, no packing, no caching: the second opinion that
the engines are held against. A model is its `config.json` and the mapping of its published tensor
names to arrays. Letters in shapes: L tokens, H width, D head dimension.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import erf

Array = npt.NDArray[np.float64]
Config = Mapping[str, Any]
Tensors = Mapping[str, Array]


# --- mechanisms -----------------------------------------------------------------------------------


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1.0 + erf(x / math.sqrt(2.0))))


def silu(x: Array) -> Array:
    return x / (1.0 + np.exp(-x))


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return np.asarray(centred / np.sqrt(variance + eps) * weight + bias)


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight)


def linear(x: Array, tensors: Tensors, name: str) -> Array:
    y = x @ tensors[f"{name}.weight"].T
    bias = f"{name}.bias"
    return y + tensors[bias] if bias in tensors else y


def inverse_frequencies(
    theta: float, head_dim: int, factor: float = 1.0, mixed_b: float | None = None
) -> list[float]:
    """Return D/2 frequencies: plain, NTK-scaled in the fixed form, or NTK-scaled with `mixed_b`."""
    half = head_dim // 2
    plain = [theta ** (-2.0 * i / head_dim) for i in range(half)]
    if factor == 1.0:
        return plain
    if mixed_b is None:
        stretched = [(theta * factor) ** (-2.0 * i / head_dim) for i in range(half)]
        return [f / factor ** (2.0 / head_dim) for f in stretched]
    a = math.log(factor) / half**mixed_b
    return [f / math.exp(a * m**mixed_b) for m, f in enumerate(plain, start=1)]


def rotate(x: Array, frequencies: Sequence[float]) -> Array:
    """Turn each pair (j, j + D/2) of row p by the angle p * frequency j."""
    half = len(frequencies)
    out = np.empty_like(x)
    for position in range(len(x)):
        for j, frequency in enumerate(frequencies):
            c, s = math.cos(position * frequency), math.sin(position * frequency)
            a, b = x[position, j], x[position, j + half]
            out[position, j] = a * c - b * s
            out[position, j + half] = b * c + a * s
    return out


def softmax(scores: Array) -> Array:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def head_attention(q: Array, k: Array, v: Array) -> Array:
    """Attend from every row of q to every row of k: no mask, scale 1/sqrt(D)."""
    return softmax(q @ k.T / math.sqrt(q.shape[1])) @ v


def columns(x: Array, head: int, head_dim: int) -> Array:
    return x[:, head * head_dim : (head + 1) * head_dim]


# --- pooling and heads ----------------------------------------------------------------------------


def pool(states: Array, mode: str, skip: int = 0) -> Array:
    """Pool (L, H) to (H,): `cls`, `mean` without the first `skip` tokens, or `last`."""
    kept = {"cls": states[:1], "mean": states[skip:], "last": states[-1:]}[mode]
    return np.asarray(kept.sum(axis=0) / len(kept))


def unit(vectors: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return rows of length one."""
    return np.asarray(vectors / np.sqrt((vectors**2).sum(axis=-1, keepdims=True)))


def largest_weights(
    ids: Sequence[int], weights: Array, special: frozenset[int] = frozenset()
) -> dict[int, float]:
    """Return the largest positive weight of each id that is not special."""
    found: dict[int, float] = {}
    for token, weight in zip(ids, weights, strict=True):
        if token not in special and weight > 0:
            found[int(token)] = max(found.get(int(token), 0.0), float(weight))
    return found


def yes_probability(states: Array, vocabulary: Array, yes: int, no: int) -> float:
    """Return P(yes) against no, from the last token's logits."""
    logits = vocabulary @ states[-1]
    return float(softmax(np.array([logits[no], logits[yes]]))[1])


# --- the `new` architecture -----------------------------------------------------------------------


def _unprefixed(tensors: Tensors, prefix: str) -> Tensors:
    """Return the tensors with `prefix` taken off the names that carry it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _new_norm(config: Config, x: Array, tensors: Tensors, name: str) -> Array:
    if config.get("layer_norm_type", "layer_norm") == "rms_norm":
        return rms_norm(x, tensors[f"{name}.weight"], config["layer_norm_eps"])
    return layer_norm(
        x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], config["layer_norm_eps"]
    )


def _new_embed(config: Config, t: Tensors, ids: Sequence[int], types: Sequence[int]) -> Array:
    x = np.stack([t["embeddings.word_embeddings.weight"][i] for i in ids])
    if config.get("type_vocab_size", 1) > 0:
        x = x + np.stack([t["embeddings.token_type_embeddings.weight"][i] for i in types])
    if config.get("position_embedding_type", "rope") == "absolute":
        x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
    weight, bias = t["embeddings.LayerNorm.weight"], t["embeddings.LayerNorm.bias"]
    return layer_norm(x, weight, bias, config["layer_norm_eps"])


def _new_qkv(config: Config, x: Array, t: Tensors, name: str) -> tuple[Array, Array, Array]:
    if config.get("pack_qkv", True):
        q, k, v = np.split(linear(x, t, f"{name}.qkv_proj"), 3, axis=1)
        return q, k, v
    return (
        linear(x, t, f"{name}.q_proj"),
        linear(x, t, f"{name}.k_proj"),
        linear(x, t, f"{name}.v_proj"),
    )


def _new_frequencies(config: Config) -> list[float] | None:
    if config.get("position_embedding_type", "rope") != "rope":
        return None
    head_dim = config["hidden_size"] // config["num_attention_heads"]
    scaling = config.get("rope_scaling") or {}
    factor, mixed_b = scaling.get("factor", 1.0), scaling.get("mixed_b")
    return inverse_frequencies(config.get("rope_theta", 10000.0), head_dim, factor, mixed_b)


def _new_query_scale(config: Config, length: int) -> float:
    if not config.get("logn_attention_scale"):
        return 1.0
    scale = math.log(length) / math.log(config["max_position_embeddings"])
    return max(scale, 1.0) if config.get("logn_attention_clip1") else scale


def _new_attention(config: Config, x: Array, t: Tensors, name: str) -> Array:
    heads = config["num_attention_heads"]
    head_dim = config["hidden_size"] // heads
    frequencies = _new_frequencies(config)
    q, k, v = _new_qkv(config, x, t, name)
    outputs = []
    for head in range(heads):
        qh, kh, vh = (columns(part, head, head_dim) for part in (q, k, v))
        if frequencies is not None:
            qh, kh = rotate(qh, frequencies), rotate(kh, frequencies)
        outputs.append(head_attention(qh * _new_query_scale(config, len(x)), kh, vh))
    return linear(np.concatenate(outputs, axis=1), t, f"{name}.o_proj")


def _new_mlp(x: Array, t: Tensors, name: str) -> Array:
    packed = x @ t[f"{name}.up_gate_proj.weight"].T
    up, gate = np.split(packed, 2, axis=1)
    return linear(up * gelu(gate), t, f"{name}.down_proj")


def new_states(
    config: Config, tensors: Tensors, ids: Sequence[int], types: Sequence[int] | None = None
) -> Array:
    """Return the final states (L, H) of the `new` architecture."""
    t = _unprefixed(tensors, "new.")
    x = _new_embed(config, t, ids, types if types is not None else [0] * len(ids))
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        attended = _new_attention(config, x, t, f"{name}.attention")
        x = _new_norm(config, x + attended, t, f"{name}.attn_ln")
        x = _new_norm(config, x + _new_mlp(x, t, f"{name}.mlp"), t, f"{name}.mlp_ln")
    return x


def new_sparse(tensors: Tensors, states: Array) -> Array:
    """Return the weight of each token, (L,)."""
    return np.maximum(linear(states, tensors, "classifier")[:, 0], 0.0)


def new_score(tensors: Tensors, states: Array) -> float:
    """Return the reranker's logit: tanh pooler on the first token, then the classifier."""
    pooled = np.tanh(linear(states[:1], tensors, "new.pooler.dense"))
    return float(linear(pooled, tensors, "classifier")[0, 0])


# --- BERT, only to hold the mechanisms above against transformers ---------------------------------


def bert_states(config: Config, t: Tensors, ids: Sequence[int]) -> Array:
    """Return the final states of a BERT whose token types are all 0."""
    eps, heads = config["layer_norm_eps"], config["num_attention_heads"]
    head_dim = config["hidden_size"] // heads

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, t[f"{name}.weight"], t[f"{name}.bias"], eps)

    x = t["embeddings.word_embeddings.weight"][list(ids)]
    x = x + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{i}"
        parts = [linear(x, t, f"{name}.attention.self.{p}") for p in ("query", "key", "value")]
        attended = [
            head_attention(*(columns(part, head, head_dim) for part in parts))
            for head in range(heads)
        ]
        output = linear(np.concatenate(attended, axis=1), t, f"{name}.attention.output.dense")
        x = norm(x + output, f"{name}.attention.output.LayerNorm")
        inner = gelu(linear(x, t, f"{name}.intermediate.dense"))
        x = norm(x + linear(inner, t, f"{name}.output.dense"), f"{name}.output.LayerNorm")
    return x


# --- Mistral, with or without the causal mask -----------------------------------------------------


def _visible(length: int, causal: bool) -> npt.NDArray[np.bool_]:
    seen = np.ones((length, length), dtype=bool)
    return np.tril(seen) if causal else seen


def _mistral_attention(config: Config, x: Array, t: Tensors, name: str, causal: bool) -> Array:
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    frequencies = inverse_frequencies(config["rope_theta"], head_dim)
    q, k, v = (linear(x, t, f"{name}.{part}_proj") for part in "qkv")
    seen = _visible(len(x), causal)
    outputs = []
    for head in range(heads):
        kv_head = head // (heads // kv_heads)
        qh = rotate(columns(q, head, head_dim), frequencies)
        kh = rotate(columns(k, kv_head, head_dim), frequencies)
        scores = np.where(seen, qh @ kh.T / math.sqrt(head_dim), -np.inf)
        outputs.append(softmax(scores) @ columns(v, kv_head, head_dim))
    return linear(np.concatenate(outputs, axis=1), t, f"{name}.o_proj")


def mistral_states(
    config: Config, tensors: Tensors, ids: Sequence[int], *, causal: bool, prefix: str = ""
) -> Array:
    """Return the final states of a Mistral whose window is not shorter than the text."""
    t, eps = _unprefixed(tensors, prefix), config["rms_norm_eps"]
    x = t["embed_tokens.weight"][list(ids)]
    for i in range(config["num_hidden_layers"]):
        name = f"layers.{i}"
        normed = rms_norm(x, t[f"{name}.input_layernorm.weight"], eps)
        x = x + _mistral_attention(config, normed, t, f"{name}.self_attn", causal)
        normed = rms_norm(x, t[f"{name}.post_attention_layernorm.weight"], eps)
        gate, up = (linear(normed, t, f"{name}.mlp.{part}_proj") for part in ("gate", "up"))
        x = x + linear(silu(gate) * up, t, f"{name}.mlp.down_proj")
    return rms_norm(x, t["norm.weight"], eps)


# --- NV-Embed -------------------------------------------------------------------------------------


def latent_states(config: Config, tensors: Tensors, states: Array) -> Array:
    """Return the token states after the latent-attention block, (L, H)."""
    t = _unprefixed(tensors, "latent_attention_model.")
    attend, feed = "cross_attend_blocks.0", "cross_attend_blocks.1"
    heads, head_dim = config["num_cross_heads"], config["cross_dim_head"]

    def norm(x: Array, name: str) -> Array:
        return layer_norm(x, t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    q = linear(norm(states, f"{attend}.norm"), t, f"{attend}.fn.to_q")
    keys_values = linear(norm(t["latents"], f"{attend}.norm_context"), t, f"{attend}.fn.to_kv")
    k, v = np.split(keys_values, 2, axis=1)
    outputs = [
        head_attention(*(columns(part, head, head_dim) for part in (q, k, v)))
        for head in range(heads)
    ]
    states = states + linear(np.concatenate(outputs, axis=1), t, f"{attend}.fn.to_out")
    packed = linear(norm(states, f"{feed}.norm"), t, f"{feed}.fn.net.0")
    x, gates = np.split(packed, 2, axis=1)
    return states + linear(x * gelu(gates), t, f"{feed}.fn.net.2")


def latent_pool(config: Config, tensors: Tensors, states: Array, skip: int) -> Array:
    """Return the vector (H,): the mean after the latent block, without `skip` instruction tokens.

    Instruction tokens take part in everything before the mean.
    """
    return pool(latent_states(config, tensors, states), "mean", skip)


def nvembed_states(config: Config, tensors: Tensors, ids: Sequence[int]) -> Array:
    """Return the states of NV-Embed's Mistral, which has no causal mask, (L, H)."""
    text = config["text_config"]
    return mistral_states(text, tensors, ids, causal=False, prefix="embedding_model.")


def nvembed(config: Config, tensors: Tensors, ids: Sequence[int], skip: int) -> Array:
    """Return NV-Embed's vector (H,), not normalised."""
    states = nvembed_states(config, tensors, ids)
    return latent_pool(config["latent_attention_config"], tensors, states, skip)


# --- bge-m3 ---------------------------------------------------------------------------------------


def m3_sparse(sparse_linear: Tensors, states: Array) -> Array:
    """Return the weight of each token, (L,)."""
    return np.maximum(linear(states, {f"s.{k}": v for k, v in sparse_linear.items()}, "s")[:, 0], 0)


def m3_tokens(colbert_linear: Tensors, states: Array) -> Array:
    """Return the late-interaction vectors (L - 1, D'): all tokens but the first, unit length."""
    named = {f"c.{k}": v for k, v in colbert_linear.items()}
    return unit(linear(states[1:], named, "c"))
