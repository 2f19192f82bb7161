"""A checkpoint loaded into an engine: what `Encoder` and `Reranker` have in common."""

from dataclasses import dataclass, fields, replace
from typing import Any, Self

from opengte.checkpoint import Checkpoint, read_checkpoint
from opengte.engine import load_engine
from opengte.engine.base import Engine
from opengte.errors import EngineError
from opengte.process_lock import ProcessLock
from opengte.tokenization.tokenizer import Tokenizer
from opengte.types import ModelCard


@dataclass
class Counters:
    """Counts of what a loaded model has processed since it was loaded."""

    texts: int = 0
    tokens: int = 0  # that were computed, special tokens included
    duplicates: int = 0  # texts that were equal to another text of the same call
    truncated: int = 0  # texts that lost tokens
    repaired: int = 0  # texts whose lone surrogates were replaced
    missing_instructions: int = 0  # queries that used the default instruction of the model


class LoadedModel:
    """A checkpoint loaded into an engine, with its counters.

    A copy by pickle opens the same files again, with the engine and the precision of the original.
    """

    def __init__(self, checkpoint: Checkpoint, engine: Engine) -> None:
        self._checkpoint = checkpoint
        self._engine = engine
        self._counters = Counters()
        self._opened_with: dict[str, Any] | None = None
        self._lock = ProcessLock()
        checkpoint.tokenizer.compute_derived()
        self.late = checkpoint.late  # how texts become token vectors
        self.card: ModelCard = replace(
            checkpoint.card,
            engine=engine.name,
            precision=engine.precision,
            device=engine.device,
            threads=engine.threads,
        )

    @property
    def checkpoint(self) -> Checkpoint:
        """What the model was loaded from: its plan, prompts and files.

        >>> encoder.checkpoint.plan.width
        384
        """
        return self._checkpoint

    @property
    def former_fingerprint(self) -> str:
        """The fingerprint that earlier versions gave this model; to recognise what they made.

        >>> encoder.former_fingerprint == encoder.card.fingerprint
        False
        """
        return self._checkpoint.former_fingerprint

    @property
    def engine(self) -> Engine:
        """The engine, which computes packed batches of token ids.

        >>> encoder.engine.name in ("native", "torch")
        True
        """
        return self._engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        >>> encoder.tokenizer.count(["a cat"]).tolist()
        [4]
        """
        return self._checkpoint.tokenizer

    @property
    def counters(self) -> Counters:
        """A snapshot of the counters.

        >>> before = encoder.counters.texts
        >>> vectors = encoder.encode(["a cat", "a dog"])
        >>> encoder.counters.texts - before
        2
        """
        with self._lock:
            return replace(self._counters)

    def _count(self, **amounts: int) -> None:
        with self._lock:
            for field in fields(self._counters):
                now = getattr(self._counters, field.name)
                setattr(self._counters, field.name, now + amounts.get(field.name, 0))

    def _loaded(self, **arguments: Any) -> Self:
        """Remember how to open the model again: its place, and the arguments of `load_engine`."""
        checkpoint = self._checkpoint
        place, _, _ = checkpoint.source.partition(" ")
        self._opened_with = arguments | {
            "model": _place(checkpoint),
            "revision": checkpoint.revision if place == "hub" else None,
            "max_length": checkpoint.max_length,
            "kind": checkpoint.kind,
            "engine": self._engine.name,
            "precision": self._engine.precision,
        }
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self._opened_with is None:
            raise EngineError(
                f"{self!r} cannot be pickled, because it was put together in memory. Save it to a "
                "folder and load that"
            )
        return _open_again, (type(self), self._opened_with)

    def __repr__(self) -> str:
        card = self.card
        kind = type(self).__name__
        return f"<{kind} {card.name}: {card.architecture}, {card.engine} {card.precision}>"


def _place(checkpoint: Checkpoint) -> str:
    """Return what a checkpoint is opened by, from any working directory."""
    kind, _, place = checkpoint.source.partition(" ")
    if kind != "folder":
        return checkpoint.name
    # its own folder has one of two encoders
    return place if checkpoint.routes is not None else str(checkpoint.folder)


def _open_again(cls: type[LoadedModel], arguments: dict[str, Any]) -> LoadedModel:
    of_files = ("model", "revision", "offline", "max_length", "kind")
    checkpoint = read_checkpoint(**{name: arguments[name] for name in of_files})
    of_engine = {name: arguments[name] for name in arguments if name not in of_files}
    loaded = cls(checkpoint, load_engine(checkpoint, **of_engine))
    return loaded._loaded(**arguments)
