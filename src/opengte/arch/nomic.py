"""nomic_bert (arXiv 2402.01613): nomic-embed-text v1 and v1.5, snowflake-arctic-embed-m-long."""

from opengte.arch import config_values
from opengte.arch.bert import SPARSE, TOKENS
from opengte.arch.config_values import Config
from opengte.arch.plan import Attention, Embedding, FeedForward, Layer, Norm, Plan, Rope
from opengte.arch.tensors import TensorNaming

NOMIC = TensorNaming(
    body={
        "embedding.word": ("embeddings.word_embeddings.weight",),
        "embedding.token_type": ("embeddings.token_type_embeddings.weight",),
        "embedding.norm": ("emb_ln", "embeddings.LayerNorm"),
        "layers.{i}.qkv": (
            "encoder.layers.{i}.attn.Wqkv",
            (
                "layers.{i}.self_attn.q_proj",
                "layers.{i}.self_attn.k_proj",
                "layers.{i}.self_attn.v_proj",
            ),
        ),
        "layers.{i}.out": ("encoder.layers.{i}.attn.out_proj", "layers.{i}.self_attn.o_proj"),
        "layers.{i}.attention_norm": (
            "encoder.layers.{i}.norm1",
            "layers.{i}.post_attention_layernorm",
        ),
        # the published code applies the activation to the second matrix
        "layers.{i}.up": (
            ("encoder.layers.{i}.mlp.fc12", "encoder.layers.{i}.mlp.fc11"),
            ("layers.{i}.mlp.gate_proj", "layers.{i}.mlp.up_proj"),
            "encoder.layers.{i}.mlp.fc1",
        ),
        "layers.{i}.down": ("encoder.layers.{i}.mlp.fc2", "layers.{i}.mlp.down_proj"),
        "layers.{i}.ffn_norm": ("encoder.layers.{i}.norm2", "layers.{i}.post_mlp_layernorm"),
    },
    heads={"sparse": SPARSE, "tokens": TOKENS},
    prefixes=("bert.", "nomic_bert.", ""),
    unused=(r"pooler\..*", r"cls\..*", r".*rotary_emb\.inv_freq", r"embeddings\.position_ids"),
)
# the published files' names of settings that transformers calls otherwise
OLDER = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "intermediate_size": "n_inner",
    "max_position_embeddings": "n_positions",
    "layer_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}
GATED = {"swiglu": "silu", "geglu": "gelu"}


def nomic_plan(config: Config) -> Plan:
    """Return the plan of a nomic_bert encoder: BERT with rotary positions and gated layers.

    With `rotary_scaling_factor`, frequencies change with the length from `max_trained_positions`
    on, which is not computed here: that is the longest text.
    """
    settings = {key: _setting(config, key) for key in OLDER}
    _check(config)
    width = config_values.whole_number(settings, "hidden_size", 768)
    norm = Norm("layer", config_values.number(settings, "layer_norm_eps", 1e-12), bias=True)
    positions = config_values.whole_number(settings, "max_position_embeddings", 2048)
    trained = config_values.whole_number(config, "max_trained_positions", positions)
    if config.get("rotary_scaling_factor") is not None:
        positions = min(positions, trained)
    return Plan(
        architecture="nomic_bert",
        embedding=Embedding(
            vocabulary=config_values.whole_number(config, "vocab_size", 30528),
            width=width,
            positions=0,
            position_offset=0,
            types=config_values.whole_number(config, "type_vocab_size", 2, at_least=0),
            norm=norm,
        ),
        layers=(_layer(config, settings, width, norm),)
        * config_values.whole_number(settings, "num_hidden_layers", 12),
        final_norm=None,
        max_positions=positions,
    )


def _setting(config: Config, key: str) -> object:
    older = config.get(OLDER[key])
    return config.get(key) if older is None else older


def _check(config: Config) -> None:
    """Refuse the settings that the published code has and no published checkpoint of this kind."""
    wanted = {
        "prenorm": False,
        "parallel_block": False,
        "causal": False,
        "use_rms_norm": False,
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "rotary_emb_scale_base": None,
        "moe_every_n_layers": 0,
    }
    for name, value in wanted.items():
        found = config.get(name)
        if found is not None and found != value:
            raise config_values.unsupported_value(config, name, found, repr(value))


def _layer(config: Config, settings: Config, width: int, norm: Norm) -> Layer:
    heads = config_values.whole_number(settings, "num_attention_heads", 12)
    bias = config_values.flag(config, "qkv_proj_bias", False)
    parameters = config.get("rope_parameters") or {}
    config_values.one_of(parameters, "rope_type", ("default",))
    theta = parameters.get("rope_theta", config.get("rotary_emb_base"))
    activation = str(settings["hidden_act"] or "swiglu")
    # transformers names the activation of the gate, the published files the whole form
    gated = activation in GATED or config.get("activation_function") is None
    return Layer(
        post_norm=True,
        attention_norm=norm,
        attention=Attention(
            heads=heads,
            kv_heads=heads,
            head_dim=config_values.head_dim(config, width, heads),
            qkv_bias=bias,
            out_bias=bias,
            causal=False,
            rope=Rope(config_values.number({"rotary_emb_base": theta}, "rotary_emb_base", 1000.0)),
            window=None,
            qk_norm=None,
            logn=None,
        ),
        ffn_norm=norm,
        ffn=FeedForward(
            inner=config_values.whole_number(settings, "intermediate_size", 4 * width),
            gated=gated,
            activation=config_values.activation(
                {"activation_function": GATED.get(activation, activation)},
                "activation_function",
                "silu",
            ),
            up_bias=config_values.flag(config, "mlp_fc1_bias", False),
            down_bias=config_values.flag(config, "mlp_fc2_bias", False),
        ),
    )
