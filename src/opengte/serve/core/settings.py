"""What the service is told at the start: its models and its cache."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from opengte.errors import InputError


@dataclass(frozen=True)
class ModelSettings:
    """One model to serve; arguments of `Encoder.load`, and the limits of its queue.

    name is what clients call it, source when not given. max_batch_tokens and max_queue_tokens of
    None are computed, from free memory and from the measured speed; a single text longer than
    max_batch_tokens is computed alone. A batch that takes
    batch_seconds longer than its tokens should is taken for a hang.
    """

    source: str
    name: str | None = None
    aliases: tuple[str, ...] = ()
    kind: Literal["encoder", "reranker"] | None = None
    engine: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    device: str | None = None
    revision: str | None = None
    max_length: int | None = None
    offline: bool | None = None
    max_batch_tokens: int | None = None
    max_queue_tokens: int | None = None
    batch_seconds: float = 30.0

    def __post_init__(self) -> None:
        """Check the limits."""
        for field in ("max_batch_tokens", "max_queue_tokens", "batch_seconds"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise InputError(f"{field} of `{self.source}` is {value}, expected more than 0")

    @property
    def served_name(self) -> str:
        """What clients call the model."""
        return self.name or self.source

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names under which clients may ask for the model, the first one shown to them."""
        return tuple(dict.fromkeys((self.served_name, *self.aliases)))


@dataclass(frozen=True)
class CacheSettings:
    """How much of what was computed is kept; with a path also on disk, in an SQLite file."""

    memory_bytes: int = 64 << 20
    path: Path | None = None
    disk_bytes: int = 1 << 30
