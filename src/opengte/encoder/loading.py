"""Loading an encoder or a reranker, and more engines for a loaded model."""

from pathlib import Path
from typing import Any

from opengte import checkpoint as checkpoints
from opengte import engine as engines
from opengte.checkpoint import Kind
from opengte.encoder.encoder import Encoder
from opengte.encoder.late import LateInteraction
from opengte.encoder.loaded_model import LoadedModel
from opengte.encoder.reranker import Reranker
from opengte.engine.base import Engine


def load_model(
    model: str | Path,
    *,
    kind: Kind | None = None,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    device: str | None = None,
    revision: str | None = None,
    max_length: int | None = None,
    offline: bool | None = None,
) -> Encoder | Reranker:
    """Load a model as an encoder or a reranker, whichever its files describe.

    kind decides where the files do not, as with decoders. The other arguments and the errors are
    those of `Encoder.load`.

    >>> load_model("BAAI/bge-reranker-base").card.kind
    'reranker'
    """
    checkpoint = checkpoints.read_checkpoint(
        model, revision=revision, offline=offline, max_length=max_length, kind=kind
    )
    loaded = engines.load_engine(
        checkpoint, engine=engine, precision=precision, threads=threads, device=device
    )
    chosen = Reranker if checkpoint.kind == "reranker" else Encoder
    return chosen(checkpoint, loaded)._loaded(offline=offline, threads=threads, device=device)


def load_scorer(model: str | Path, **settings: Any) -> Reranker | LateInteraction:
    """Load a model that scores documents: a reranker, or late interaction if its files say so.

    settings and errors are those of `Encoder.load`.

    >>> type(load_scorer("lightonai/LateOn")).__name__
    'LateInteraction'
    """
    loaded = load_model(model, kind="reranker", **settings)
    return loaded if isinstance(loaded, Reranker) else LateInteraction(loaded)


def load_another_engine(loaded: LoadedModel, threads: int | None = None) -> Engine:
    """Load a model's weights into another engine of the same kind and precision.

    The compiled engine maps its weights, so that both engines share their memory.
    """
    card = loaded.card
    return engines.load_engine(
        loaded.checkpoint,
        engine=card.engine or "auto",
        precision=card.precision or "auto",
        threads=threads or card.threads,
        device=card.device,
    )
