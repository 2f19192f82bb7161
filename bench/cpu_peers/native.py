"""OpenGTE itself, on its compiled engine."""

from collections.abc import Sequence
from typing import Any

from opengte import Encoder
from opengte.types import Floats


class Peer:
    """An encoder."""

    engine = "native"

    def __init__(self, options: dict[str, Any]) -> None:
        self._encoder = Encoder.load(
            options["folder"],
            engine=self.engine,
            precision=options["precision"],
            threads=options["threads"],
            max_length=options["max_length"],
        )

    def encode(self, texts: Sequence[str]) -> Floats:
        """Return the vectors of texts, in their order."""
        dense = self._encoder.embed(texts, progress=False).dense
        assert dense is not None
        return dense
