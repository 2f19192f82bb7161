"""Typed access to the values of `config.json`, with errors that name the setting."""

from collections.abc import Mapping
from typing import Any

from opengte.arch.plan import Activation
from opengte.errors import UnsupportedModelError

Config = Mapping[str, Any]

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "tanh": "tanh",
}

MOST_LABELS = 10_000


def whole_number(config: Config, name: str, default: int | None = None, at_least: int = 1) -> int:
    """Return a whole number; null counts as absent."""
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= 10**8:
        raise unsupported_value(config, name, value, f"a whole number of at least {at_least}")
    return value


def number(config: Config, name: str, default: float | None = None) -> float:
    """Return a positive real number; null counts as absent."""
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e18:
        raise unsupported_value(config, name, value, "a positive number")
    return float(value)


def flag(config: Config, name: str, default: bool) -> bool:
    """Return a boolean; null counts as absent."""
    value = config.get(name)
    value = default if value is None else value
    if not isinstance(value, bool):
        raise unsupported_value(config, name, value, "true or false")
    return value


def activation(config: Config, name: str, default: str) -> Activation:
    """Return an activation by the name in the config."""
    value = config.get(name) or default
    if value not in ACTIVATIONS:
        raise unsupported_value(config, name, value, f"one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[value]


def one_of(config: Config, name: str, allowed: tuple[Any, ...]) -> Any:
    """Return one of the allowed values, of which the first is the default."""
    value = config.get(name)
    value = allowed[0] if value is None else value
    if value not in allowed:
        raise unsupported_value(
            config, name, value, " or ".join(repr(choice) for choice in allowed)
        )
    return value


def head_dim(config: Config, width: int, heads: int) -> int:
    """Return the head dimension, by default width / heads; it must be even."""
    if config.get("head_dim") is None and width % heads:
        raise unsupported_value(
            config, "num_attention_heads", heads, f"a divisor of the width {width}"
        )
    dim = whole_number(config, "head_dim", width // heads)
    if dim % 2:
        raise unsupported_value(config, "head_dim", dim, "an even number")
    return dim


def kv_heads(config: Config, heads: int) -> int:
    """Return the number of key-value heads, which divides the number of query heads."""
    found = whole_number(config, "num_key_value_heads", heads)
    if heads % found:
        raise unsupported_value(
            config, "num_key_value_heads", found, f"a divisor of the {heads} query heads"
        )
    return found


def unsupported_value(
    config: Config, name: str, value: object, expected: str
) -> UnsupportedModelError:
    """Return the error for a value that is not supported."""
    kind = config.get("model_type", "unknown")
    return UnsupportedModelError(
        f"config.json of a `{kind}` model: `{name}` is {value!r}, expected {expected}."
    )


def is_classifier(config: Config) -> bool:
    """Return whether the checkpoint is a sequence classifier, as rerankers are."""
    architectures = config.get("architectures") or ()
    return any(str(name).endswith("ForSequenceClassification") for name in architectures)


def labels(config: Config) -> int:
    """Return the number of classes; a reranker has one, the relevance."""
    found = config.get("num_labels") or len(config.get("id2label") or {"0": "LABEL_0", "1": ""})
    if not isinstance(found, int) or isinstance(found, bool) or not 1 <= found <= MOST_LABELS:
        raise unsupported_value(config, "num_labels", found, f"1 to {MOST_LABELS}")
    return found


def label_names(config: Config) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their logits."""
    named = config.get("id2label") or {}
    return tuple(str(named.get(str(i), f"LABEL_{i}")) for i in range(labels(config)))
