"""Scaled rotary embeddings whose frequencies do not depend on the text: linear, Llama 3, YaRN."""

import math
from collections.abc import Mapping
from typing import Any

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.plan import Rope

Parameters = Mapping[str, Any]


def rope_of(config: Config, head_dim: int) -> Rope:
    """Return the rotary embedding of a decoder, from an old or a new style of config."""
    parameters = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or parameters
    theta = parameters.get("rope_theta", config.get("rope_theta"))
    theta = config_values.number({"rope_theta": theta}, "rope_theta", 1e4)
    positions = config_values.whole_number(config, "max_position_embeddings", 32768)
    return scaled_rope(config, theta, scaling, head_dim, positions)


def scaled_rope(
    config: Config, theta: float, parameters: Parameters, head_dim: int, positions: int
) -> Rope:
    """Return the rotary embedding that the parameters of one kind of layer describe.

    config is for errors. positions is the config's `max_position_embeddings`. Raises
    UnsupportedModelError for a kind that it does not know, or whose frequencies depend on a text's
    length (dynamic, longrope).
    """
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    partial = parameters.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise config_values.unsupported_value(
            config, "partial_rotary_factor", partial, "1: all of a head rotates"
        )
    if kind == "default":
        return Rope(theta)
    base = Rope(theta).inverse_frequencies(head_dim)
    if kind == "linear":
        factor = config_values.number(parameters, "factor")
        return Rope(theta, frequencies=tuple(f / factor for f in base))
    if kind == "llama3":
        return Rope(theta, frequencies=_llama3(base, parameters, positions))
    if kind == "yarn":
        return _yarn(theta, base, parameters, positions)
    raise config_values.unsupported_value(
        config, "rope_type", kind, "default, linear, llama3 or yarn for this architecture"
    )


def _llama3(base: tuple[float, ...], parameters: Parameters, positions: int) -> tuple[float, ...]:
    """Divide low frequencies by the factor and keep high ones, with a ramp between (Llama 3.1)."""
    factor = config_values.number(parameters, "factor")
    low = config_values.number(parameters, "low_freq_factor")
    high = config_values.number(parameters, "high_freq_factor")
    trained = _trained(parameters, positions)

    def scale(frequency: float) -> float:
        turns = trained * frequency / (2 * math.pi)  # within the trained length
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        return frequency * (kept + (1 - kept) / factor)

    return tuple(map(scale, base))


def _yarn(theta: float, base: tuple[float, ...], parameters: Parameters, positions: int) -> Rope:
    """Divide low frequencies by the factor, and raise the magnitude (arXiv 2309.00071)."""
    trained = _trained(parameters, positions)
    factor = config_values.number(parameters, "factor", positions / trained)
    half = len(base)

    def place(turns: float) -> float:
        """Return the index of the frequency that turns so often within the trained length."""
        return half * math.log(trained / (turns * 2 * math.pi)) / math.log(theta)

    first = place(config_values.number(parameters, "beta_fast", 32.0))
    last = place(config_values.number(parameters, "beta_slow", 1.0))
    if config_values.flag(parameters, "truncate", True):
        first, last = float(math.floor(first)), float(math.ceil(last))
    first, last = max(first, 0.0), min(last, 2 * half - 1.0)
    last += 0.001 * (first == last)
    divided = [min(max((i - first) / (last - first), 0.0), 1.0) for i in range(half)]
    return Rope(
        theta,
        frequencies=tuple(
            f * (share / factor + 1 - share) for f, share in zip(base, divided, strict=True)
        ),
        magnitude=_yarn_magnitude(factor, parameters),
    )


def _yarn_magnitude(factor: float, parameters: Parameters) -> float:
    given = parameters.get("attention_factor")
    if given is not None:
        return config_values.number(parameters, "attention_factor")

    def grown(by: float) -> float:
        return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0

    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return grown(above) / grown(below) if above and below else grown(1.0)


def _trained(parameters: Parameters, positions: int) -> int:
    return config_values.whole_number(parameters, "original_max_position_embeddings", positions)
