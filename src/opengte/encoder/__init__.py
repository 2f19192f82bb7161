"""`Encoder` and `Reranker`: text in, arrays out. Everything above uses these two classes."""

from opengte.encoder.encoder import Encoder
from opengte.encoder.loaded_model import Counters
from opengte.encoder.loading import load_another_engine, load_model
from opengte.encoder.reranker import Reranker

__all__ = ["Counters", "Encoder", "Reranker", "load_another_engine", "load_model"]
