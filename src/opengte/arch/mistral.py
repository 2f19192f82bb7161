"""Mistral and Ministral: e5-mistral-7b-instruct, SFR-Embedding, Linq-Embed, Nemotron-3-Embed."""

from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.decoder import decoder_plan, is_causal
from opengte.arch.plan import Plan


def mistral_plan(config: Config) -> Plan:
    """Return the plan of a Mistral decoder: no biases, a sliding window if the config has one."""
    return _plan(config, "mistral")


def ministral_plan(config: Config) -> Plan:
    """Return the plan of a Ministral decoder, whose `layer_types` say which layers slide."""
    return _plan(config, "ministral")


def ministral3_plan(config: Config) -> Plan:
    """Return the plan of a Ministral 3 decoder, with YaRN.

    Its queries are scaled from position `original_max_position_embeddings` on, which is not
    computed here: that position is the longest text.
    """
    plan = _plan(config, "ministral3")
    scaling = config.get("rope_parameters") or {}
    if scaling.get("llama_4_scaling_beta"):
        limit = config_values.whole_number(scaling, "original_max_position_embeddings")
        plan = replace(plan, max_positions=min(limit, plan.max_positions))
    return plan


def _plan(config: Config, name: str) -> Plan:
    return decoder_plan(
        config, name, causal=is_causal(config), windows=lambda i: _window(config, i)
    )


def _window(config: Config, index: int) -> int | None:
    """Return how many tokens back a layer attends; a sliding window includes the token itself."""
    if config.get("sliding_window") is None:
        return None
    kinds = config.get("layer_types")
    if config.get("model_type") == "ministral" and isinstance(kinds, list) and index < len(kinds):
        kind = kinds[index]
        if kind not in ("full_attention", "sliding_attention"):
            raise config_values.unsupported_value(
                config, "layer_types", kind, "full_attention or sliding_attention"
            )
        if kind == "full_attention":
            return None
    return config_values.whole_number(config, "sliding_window") - 1
