"""OpenGTE: General Text Embeddings. Start with `Encoder`, `Reranker` and `KnowledgeBase`."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opengte.encoder import Encoder, LateInteraction, Reranker
    from opengte.errors import OpenGTEError
    from opengte.search.kb import KnowledgeBase
    from opengte.types import Embeddings, ModelCard, Ranked, Truncated

__version__ = "0.1.0"

# loaded on first use: `import opengte` and `gte --help` must not pay for NumPy or an engine
_HOMES = {
    "Embeddings": "opengte.types",
    "Encoder": "opengte.encoder",
    "KnowledgeBase": "opengte.search.kb",
    "LateInteraction": "opengte.encoder",
    "ModelCard": "opengte.types",
    "OpenGTEError": "opengte.errors",
    "Ranked": "opengte.types",
    "Reranker": "opengte.encoder",
    "Truncated": "opengte.types",
}

__all__ = [
    "Embeddings",
    "Encoder",
    "KnowledgeBase",
    "LateInteraction",
    "ModelCard",
    "OpenGTEError",
    "Ranked",
    "Reranker",
    "Truncated",
    "__version__",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `opengte` has no attribute `{name}`")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
