"""`Encoder`, `Reranker`, `LateInteraction`: text in, arrays out. All above uses these classes."""

from opengte.encoder.encoder import Encoder
from opengte.encoder.late import LateInteraction
from opengte.encoder.loaded_model import Counters
from opengte.encoder.loading import load_another_engine, load_model, load_scorer
from opengte.encoder.reranker import Reranker

__all__ = [
    "Counters",
    "Encoder",
    "LateInteraction",
    "Reranker",
    "load_another_engine",
    "load_model",
    "load_scorer",
]
