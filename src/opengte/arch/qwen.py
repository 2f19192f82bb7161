"""Qwen2 and Qwen3: gte-Qwen1.5, gte-Qwen2, Qwen3-Embedding, voyage-4-nano."""

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.decoder import decoder_plan, is_causal
from opengte.arch.plan import Plan


def qwen2_plan(config: Config) -> Plan:
    """Return the plan of a Qwen2 decoder, which has biases on queries, keys and values.

    It is bidirectional if the config has `is_causal: false` or `use_bidirectional_attention`, or
    if, as in the gte-Qwen checkpoints, its `auto_map` names code that makes it so.
    """
    code = str((config.get("auto_map") or {}).get("AutoModel", ""))
    causal = is_causal(config, not code.endswith("modeling_qwen.Qwen2Model"))
    return decoder_plan(
        config, "qwen2", causal=causal, qkv_bias=True, windows=lambda i: _window(config, i)
    )


def qwen3_plan(config: Config) -> Plan:
    """Return the plan of a Qwen3 decoder, which has an RMSNorm on the heads of queries and keys."""
    bias = config_values.flag(config, "attention_bias", False)
    return decoder_plan(
        config,
        "qwen3",
        causal=is_causal(config),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        windows=lambda i: _window(config, i),
    )


def _window(config: Config, index: int) -> int | None:
    """Return the reach of a layer: sliding windows are off by default, and start at some layer."""
    sliding = config.get("sliding_window")
    if sliding is None or not config_values.flag(config, "use_sliding_window", False):
        return None
    kinds = config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) > index:
        slides = kinds[index] == "sliding_attention"
    else:
        slides = index >= config_values.whole_number(config, "max_window_layers", 28, at_least=0)
    # the window includes the token itself
    return config_values.whole_number(config, "sliding_window") - 1 if slides else None
