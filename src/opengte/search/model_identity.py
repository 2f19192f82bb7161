"""Which model made the vectors of an index: queries must be encoded by the same one.

Two vectors can be compared only if everything that made them is the same: weights, tokenizer,
prompts and maximum length (the model's fingerprint), precision, dimensions and instruction.
"""

from dataclasses import asdict, dataclass
from typing import Any

from opengte.errors import InputError
from opengte.types import ModelCard


@dataclass(frozen=True)
class ModelIdentity:
    """Everything that determines the vectors of an index."""

    model: str
    source: str
    fingerprint: str
    precision: str
    max_length: int
    dimension: int
    instruction: str | None

    @classmethod
    def of(cls, card: ModelCard, instruction: str | None) -> "ModelIdentity":
        """Return the identity of a loaded model."""
        return cls(
            model=card.name,
            source=card.source,
            fingerprint=card.fingerprint,
            precision=card.precision or "fp32",
            max_length=card.max_length,
            dimension=card.dimension,
            instruction=instruction,
        )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "ModelIdentity":
        """Return the identity that `settings` described."""
        return cls(**settings)

    def settings(self) -> dict[str, Any]:
        """Return a value for JSON."""
        return asdict(self)

    def check(self, other: "ModelIdentity", place: str) -> None:
        """Raise InputError if another model's vectors cannot be compared with this one's."""
        names = ("fingerprint", "precision", "max_length", "dimension", "instruction")
        differing = [name for name in names if getattr(self, name) != getattr(other, name)]
        if not differing:
            return
        changes = "; ".join(
            f"{name.replace('_', ' ')} {getattr(other, name)!r}, the index has "
            f"{getattr(self, name)!r}"
            for name in differing
        )
        error = InputError(
            f"the index `{place}` was made by `{self.model}` and cannot be compared with vectors "
            f"of `{other.model}`: {changes}"
        )
        error.add_note(f"use the index's own: {self.options()}")
        error.add_note(f"or index anew: gte index PATHS --to NEW {other.options()}")
        raise error

    def options(self) -> str:
        """Return the options of a command that load this model in this way."""
        parts = [f"--model {_shell(self.model)}", f"--precision {self.precision}"]
        parts.append(f"--max-length {self.max_length}")
        if self.instruction is not None:
            parts.append(f"--instruction {_shell(self.instruction)}")
        return " ".join(parts)


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)
