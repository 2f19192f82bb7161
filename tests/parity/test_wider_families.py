"""Architectures beyond the GTE line against transformers' own classes, on both engines.

Each case is a tiny network of random weights with odd sizes; rows are computed packed and alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from opengte import checkpoint
from opengte.engine import native, native_extension
from opengte.errors import UnsupportedModelError
from tests.parity import oracle, packed
from tests.parity.oracle import Array, Ids
from tests.support import checkpoints

LENGTHS = (1, 2, 3, 17, 33, 130, 300)
WIDE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
ENCODER: dict[str, Any] = WIDE | {
    "vocab_size": checkpoints.VOCABULARY,
    "intermediate_size": 50,
    "pad_token_id": 0,
}
DECODER: dict[str, Any] = ENCODER | {
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
DISTIL = {
    "vocab_size": checkpoints.VOCABULARY,
    "dim": 48,
    "n_layers": 2,
    "n_heads": 3,
    "hidden_dim": 50,
}
T5 = {
    "vocab_size": checkpoints.VOCABULARY,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 50,
    "num_layers": 2,
    "num_heads": 3,
}
GEMMA = DECODER | {"num_hidden_layers": 3, "head_dim": 12, "query_pre_attn_scalar": 20}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 512,
}
MINISTRAL3 = YARN | {"llama_4_scaling_beta": 0.1, "mscale": 1.0, "mscale_all_dim": 1.0}


def _class(name: str) -> tuple[Any, Any]:
    return getattr(transformers, f"{name}Config"), getattr(transformers, f"{name}Model")


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mpnet": ("MPNet", ENCODER | {"max_position_embeddings": 514, "layer_norm_eps": 1e-5}),
    "distilbert": ("DistilBert", DISTIL),
    "distilbert, relu": ("DistilBert", DISTIL | {"activation": "relu", "n_heads": 4}),
    "camembert": ("Camembert", ENCODER | {"max_position_embeddings": 514, "type_vocab_size": 1}),
    "electra": ("Electra", ENCODER | {"embedding_size": 48}),
    "electra, projected": ("Electra", ENCODER | {"embedding_size": 20}),
    "electra, projected from more": ("Electra", ENCODER | {"embedding_size": 70}),
    "nomic_bert": ("NomicBert", ENCODER | {"max_position_embeddings": 512}),
    "eurobert": ("EuroBert", ENCODER),
    "eurobert, grouped": ("EuroBert", DECODER | {"attention_bias": True, "mlp_bias": True}),
    "llama": ("Llama", DECODER),
    "llama, biases": ("Llama", DECODER | {"attention_bias": True, "mlp_bias": True}),
    "llama 3": ("Llama", DECODER | {"rope_parameters": LLAMA3}),
    "llama, linear": (
        "Llama",
        DECODER | {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 1e4}},
    ),
    "llama, yarn": ("Llama", DECODER | {"rope_parameters": YARN}),
    "ministral": (
        "Ministral",
        DECODER
        | {
            "head_dim": 8,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "ministral 3": ("Ministral3", DECODER | {"head_dim": 8, "rope_parameters": MINISTRAL3}),
    "gemma 3, causal": ("Gemma3Text", GEMMA | {"sliding_window": 8}),
    "gemma 3, bidirectional": (
        "Gemma3Text",
        GEMMA | {"sliding_window": 8, "use_bidirectional_attention": True},
    ),
    "gemma 3, own layers": (
        "Gemma3Text",
        GEMMA
        | {
            "sliding_window": 33,
            "use_bidirectional_attention": True,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
    ),
    "t5": ("T5Encoder", T5),
    "t5 1.1": ("T5Encoder", T5 | {"feed_forward_proj": "gated-gelu", "num_heads": 5}),
}


def build(folder: Path, name: str, settings: dict[str, Any]) -> Any:
    """Write a tiny checkpoint, and return the model of transformers."""
    config, model = (
        _class(name)
        if name != "T5Encoder"
        else (
            transformers.T5Config,
            transformers.T5EncoderModel,
        )
    )
    made = model(config(**settings))
    return checkpoints.transformers_model(
        folder, made, norms_around=0.0 if "Gemma" in name else 1.0
    )


def _check(folder: Path, wanted: Callable[[Ids], Array]) -> None:
    """Compare both engines with the oracle, packed and alone."""
    rows = packed.rows_of(LENGTHS)
    packed.check_states(packed.load(folder), rows, wanted)
    if not native_extension.available():
        return
    described = checkpoint.read_checkpoint(folder)
    for isa in native_extension.isa_levels():
        engine = native.build_native_engine(described.plan, described.chunks(), isa=isa)
        packed.check_states(engine, rows, wanted)
        alone = packed.states(engine, packed.pack(rows[3:4]))[0]
        together = packed.states(engine, packed.pack(rows))[3]
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("case", CASES)
def test_states_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    model = build(tmp_path, *CASES[case])
    _check(tmp_path, lambda ids: oracle.states(model, ids))


@pytest.mark.parametrize("case", ["llama", "llama 3", "ministral 3"])
def test_bidirectional_decoders_by_their_flag(tmp_path: Path, case: str) -> None:
    model = build(tmp_path, *CASES[case])
    checkpoints.edit_config(tmp_path, is_causal=False)
    _check(tmp_path, lambda ids: oracle.bidirectional_states(model, ids))


def test_a_llama_of_the_bidirectional_type(tmp_path: Path) -> None:
    model = build(tmp_path, *CASES["llama"])
    checkpoints.edit_config(tmp_path, model_type="llama_bidirec")
    _check(tmp_path, lambda ids: oracle.bidirectional_states(model, ids))


# --- JinaBERT v2, which transformers does not have ------------------------------------------------

JINA = {
    "model_type": "bert",
    "position_embedding_type": "alibi",
    "feed_forward_type": "geglu",
    "emb_pooler": "mean",
    "max_position_embeddings": 1024,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "hidden_act": "gelu",
}


def _jina_shapes(width: int, inner: int, layers: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (checkpoints.VOCABULARY, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(layers):
        at = f"encoder.layer.{i}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            shapes[f"{at}.attention.{part}.weight"] = (width, width)
            shapes[f"{at}.attention.{part}.bias"] = (width,)
        for norm in ("attention.output.LayerNorm", "mlp.layernorm"):
            shapes[f"{at}.{norm}.weight"] = shapes[f"{at}.{norm}.bias"] = (width,)
        shapes[f"{at}.mlp.gated_layers.weight"] = (2 * inner, width)
        shapes[f"{at}.mlp.wo.weight"], shapes[f"{at}.mlp.wo.bias"] = (width, inner), (width,)
    return shapes


def _slopes(heads: int) -> list[float]:
    """Return ALiBi's slopes, by the paper's recursion for other numbers than powers of two."""
    power = 2 ** int(np.log2(heads))
    first = [2 ** (-8 / power) ** 1 * 1.0 for _ in range(0)] + [
        (2 ** (-8 / power)) ** (i + 1) for i in range(power)
    ]
    return first if power == heads else first + _slopes(2 * power)[0::2][: heads - power]


def _jina_states(tensors: checkpoints.Arrays, heads: int, layers: int, ids: Ids) -> Array:
    """Compute JinaBERT's states in float64, one loop a head."""

    def linear(name: str, x: Array) -> Array:
        found: Array = x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0.0)
        return found

    def norm(name: str, x: Array) -> Array:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        scaled: Array = x * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
        return scaled

    def gelu(x: Array) -> Array:
        return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()

    away = -np.abs(np.arange(len(ids))[:, None] - np.arange(len(ids)))
    x = tensors["embeddings.word_embeddings.weight"][ids]
    x = norm("embeddings.LayerNorm", x + tensors["embeddings.token_type_embeddings.weight"][0])
    for i in range(layers):
        at = f"encoder.layer.{i}"
        parts = [linear(f"{at}.attention.self.{n}", x) for n in ("query", "key", "value")]
        dim = x.shape[-1] // heads
        mixed = np.empty_like(x)
        for h, slope in enumerate(_slopes(heads)):
            q, k, v = (part[:, h * dim : (h + 1) * dim] for part in parts)
            scores = q @ k.T / np.sqrt(dim) + slope * away
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, h * dim : (h + 1) * dim] = weights @ v / weights.sum(-1, keepdims=True)
        x = norm(
            f"{at}.attention.output.LayerNorm", x + linear(f"{at}.attention.output.dense", mixed)
        )
        gate, up = np.split(linear(f"{at}.mlp.gated_layers", x), 2, axis=-1)
        x = norm(f"{at}.mlp.layernorm", x + linear(f"{at}.mlp.wo", gelu(gate) * up))
    return x.astype(np.float32)


@pytest.mark.parametrize("heads", [1, 3, 4, 12])
def test_jinabert(tmp_path: Path, heads: int) -> None:
    generator = torch.Generator().manual_seed(heads)
    tensors = {
        name: checkpoints.random_weight(name, shape, generator)
        for name, shape in _jina_shapes(48, 30, 2).items()
    }
    settings = ENCODER | JINA | {"num_attention_heads": heads, "intermediate_size": 30}
    checkpoints.write(tmp_path, settings, tensors)
    checkpoints.add_modules(tmp_path, "mean")
    arrays = checkpoints.as_arrays(tensors)
    _check(tmp_path, lambda ids: _jina_states(arrays, heads, 2, ids))


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("nomic_bert", {"moe_every_n_layers": 2}, "`moe_every_n_layers` is 2"),
        ("nomic_bert", {"rotary_emb_fraction": 0.5}, "`rotary_emb_fraction` is 0.5"),
        ("llama", {"rope_parameters": {"rope_type": "longrope"}}, "`rope_type` is 'longrope'"),
        ("llama", {"num_key_value_heads": 4}, "a divisor of the 6 query heads"),
        ("gemma 3, causal", {"attn_logit_softcapping": 50.0}, "`attn_logit_softcapping` is 50.0"),
        ("mpnet", {"relative_attention_num_buckets": 16}, "`relative_attention_num_buckets` is 16"),
        ("t5", {"feed_forward_proj": "gated-swish"}, "`feed_forward_proj` is 'gated-swish'"),
        ("eurobert", {"is_causal": True}, "`is_causal` is True, expected False"),
    ],
)
def test_settings_that_are_refused(
    tmp_path: Path, case: str, changes: dict[str, Any], message: str
) -> None:
    build(tmp_path, *CASES[case])
    checkpoints.edit_config(tmp_path, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        checkpoint.read_checkpoint(tmp_path)
