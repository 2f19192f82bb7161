"""Daft: `embed_text(daft.col("text"), provider=Provider(), model="minilm")`."""

from dataclasses import dataclass, field
from typing import Any

from opengte.bulk.arrow import shared_encoder
from opengte.errors import MissingExtraError

try:
    from daft import DataType
    from daft.ai.protocols import TextEmbedderDescriptor
    from daft.ai.provider import Provider as DaftProvider
    from daft.ai.typing import EmbeddingDimensions
except ImportError as error:
    raise MissingExtraError("daft", "daft", "opengte.bulk.daft") from error

BATCH = 1024  # texts that are embedded at once


class Provider(DaftProvider):
    """Embeds the texts of Daft; settings are those of `Encoder.load`."""

    def __init__(self, **settings: Any) -> None:
        self._settings = settings

    @property
    def name(self) -> str:
        """The provider's name."""
        return "opengte"

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **options: Any
    ) -> TextEmbedderDescriptor:
        """Describe a model; options are those of Daft and of `Encoder.embed`."""
        return DaftTextEmbedder(model or "minilm", dimensions, options, self._settings)


@dataclass
class DaftTextEmbedder(TextEmbedderDescriptor):
    """A model, described before a worker loads it, and its embedder there."""

    model: str
    dimensions: int | None
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    def get_provider(self) -> str:
        """Return the provider's name."""
        return "opengte"

    def get_model(self) -> str:
        """Return the model's name."""
        return self.model

    def get_options(self) -> dict[str, Any]:
        """Return the options that are Daft's."""
        return {"batch_size": BATCH, **self.options}

    def get_dimensions(self) -> EmbeddingDimensions:
        """Return the width of the vectors."""
        from opengte.checkpoint import read_checkpoint

        card = read_checkpoint(self.model).card
        return EmbeddingDimensions(self.dimensions or card.dimension, DataType.float32())

    def instantiate(self) -> "DaftTextEmbedder":
        """Return what embeds: this, which loads the model when it first has texts."""
        return self

    def embed_text(self, text: list[str]) -> list[Any]:
        """Return the vector of each text."""
        ours = {k: v for k, v in self.options.items() if k in ("role", "instruction", "truncation")}
        encoder = shared_encoder(self.model, **self.settings)
        made = encoder.embed(text, dimensions=self.dimensions, progress=False, **ours).dense
        return list(made) if made is not None else []
