"""`Encoder` and `Reranker`: text in, arrays out. The façade that everything above uses."""

from opengte.encoder.encoder import Encoder
from opengte.encoder.loaded import Counters
from opengte.encoder.opening import another_engine, load
from opengte.encoder.reranker import Reranker

__all__ = ["Counters", "Encoder", "Reranker", "another_engine", "load"]
