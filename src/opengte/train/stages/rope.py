"""Rotary positions of a model, changed: another base of the angles, more positions."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from opengte import arch
from opengte.arch.plan import Plan
from opengte.errors import InputError

Config = Mapping[str, Any]
DECODERS = ("qwen2", "qwen3", "mistral")


def rope_theta(plan: Plan) -> float:
    """Return the base of a model's rotary angles; InputError if it has learned positions."""
    rope = plan.layers[0].attention.rope
    if rope is None:
        raise InputError(
            f"the model has learned positions ({plan.architecture}), of which there cannot be "
            f"more than its {plan.max_positions}: expected one with rotary positions, such as "
            "`new` or qwen2"
        )
    return rope.theta


def with_rope(
    config: Config, theta: float, *, factor: float = 1.0, positions: int | None = None
) -> dict[str, Any]:
    """Return a config.json with another base, NTK factor and number of positions.

    Only the `new` architecture has factors other than 1; InputError for others.
    """
    kind = config.get("model_type")
    dropped = ("rope_parameters", "rope_scaling", "rope_theta")
    changed = {key: value for key, value in config.items() if key not in dropped}
    if positions is not None:
        changed["max_position_embeddings"] = positions
    if kind in ("new", "gte"):
        scaling = None if factor == 1.0 else {"type": "ntk", "factor": factor}
        return changed | {"model_type": "new", "rope_theta": theta, "rope_scaling": scaling}
    if kind in DECODERS and factor == 1.0:
        return changed | {"rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    raise InputError(
        f"model_type is {kind!r} with an NTK factor of {factor}: the base can be changed for new, "
        f"gte, {', '.join(DECODERS)}, and the factor for the first two"
    )


def plan_with_positions(plan: Plan, config: Config) -> Plan:
    """Return a plan with the layers and the positions that a config describes."""
    described = arch.plan_of(config)
    return replace(plan, layers=described.layers, max_positions=described.max_positions)
