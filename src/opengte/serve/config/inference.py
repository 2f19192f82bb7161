"""Settings of the inference service: each model, and the cache of results."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from opengte.errors import InputError
from opengte.published_models import find_published_model


@dataclass(frozen=True)
class ModelSettings:
    """One model to serve: arguments of `Encoder.load`, and the limits of its queue.

    Clients call the model `name`, which defaults to `source`. `max_batch_tokens` and
    `max_queue_tokens` default to values derived from free memory and measured throughput; a single
    text longer than `max_batch_tokens` is computed alone. A batch that takes `batch_seconds` longer
    than its tokens should counts as a hang.
    """

    source: str
    name: str = ""
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
        """Fill in the default name and check the limits."""
        object.__setattr__(self, "name", self.name or self.source)
        for field in ("max_batch_tokens", "max_queue_tokens", "batch_seconds"):
            value = getattr(self, field)
            if value is not None and value <= 0:
                raise InputError(f"{field} of `{self.source}` is {value}, expected more than 0")

    @cached_property
    def hub_id(self) -> str | None:
        """The Hub id of the weights, or None if they are a folder's or a package's."""
        if Path(self.source).exists():
            return None
        if re.fullmatch(r"[\w.-]+/[\w.-]+", self.source):
            return self.source
        published = None if "/" in self.source else find_published_model(self.source)
        return None if published is None else published.id

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All names under which clients may ask for the model; its own name comes first."""
        return tuple(dict.fromkeys((self.name, *self.aliases)))


@dataclass(frozen=True)
class CacheSettings:
    """Size limits of the result cache; with `path`, results are also cached in an SQLite file."""

    memory_bytes: int = 64 << 20
    path: Path | None = None
    disk_bytes: int = 1 << 30
