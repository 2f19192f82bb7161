"""Which model made the vectors of an index: queries must be encoded by the same one.

Two vectors can be compared only if everything that made them is the same: weights, tokenizer,
prompts and maximum length (the model's fingerprint), precision, dimensions and instruction.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from opengte.errors import InputError
from opengte.types import ModelCard

if TYPE_CHECKING:
    from opengte.encoder import Encoder


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
    query_fingerprint: str | None = None  # of a model with an encoder of its own for queries

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
            query_fingerprint=card.query_fingerprint,
        )

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> "ModelIdentity":
        """Return the identity that `settings` described."""
        return cls(**settings)

    def settings(self) -> dict[str, Any]:
        """Return a value for JSON."""
        values = asdict(self)
        if self.query_fingerprint is None:
            del values["query_fingerprint"]  # which earlier versions do not know
        return values

    def check(self, other: "ModelIdentity", place: str) -> None:
        """Raise InputError if another model's vectors cannot be compared with this one's."""
        names = ["fingerprint", "precision", "max_length", "dimension", "instruction"]
        names.append("query_fingerprint")
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

    def adopt(self, encoder: "Encoder") -> "ModelIdentity":
        """Return this identity with the model's fingerprint in place of its former one.

        Earlier versions hashed samples of the weights. Returns self if it is another model's.
        """
        now = encoder.card.fingerprint
        if self.fingerprint == now:
            return self
        former = getattr(encoder, "former_fingerprint", None)
        return replace(self, fingerprint=now) if self.fingerprint == former else self

    def options(self) -> str:
        """Return the options of a command that load this model in this way."""
        parts = [f"--model {_shell(self.model)}", f"--precision {self.precision}"]
        parts.append(f"--max-length {self.max_length}")
        if self.instruction is not None:
            parts.append(f"--instruction {_shell(self.instruction)}")
        return " ".join(parts)


def adopt_settings(settings: Mapping[str, Any], encoder: "Encoder") -> dict[str, Any]:
    """Return the settings of an index, and of its calibration, with an adopted model."""
    adopted = {**settings, "model": _adopt_model(settings["model"], encoder)}
    if calibration := settings.get("calibration"):
        learned = calibration["identity"]
        learned = {**learned, "model": _adopt_model(learned["model"], encoder)}
        adopted["calibration"] = {**calibration, "identity": learned}
    return adopted


def _adopt_model(model: dict[str, Any], encoder: "Encoder") -> dict[str, Any]:
    return ModelIdentity.from_settings(model).adopt(encoder).settings()


def _shell(text: str) -> str:
    import shlex

    return shlex.quote(text)
