"""Engines: what turns packed batches of ids into vectors. `load` chooses one."""

import importlib.util

from opengte.checkpoint import Checkpoint
from opengte.engine.base import Engine
from opengte.errors import EngineError, MissingExtraError

NAMES = ("auto", "torch")


def load(
    checkpoint: Checkpoint,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    device: str | None = None,
) -> Engine:
    """Load a checkpoint's weights into an engine: `torch`, or `auto` for the best one here."""
    if engine not in NAMES:
        raise EngineError(f"engine is {engine!r}, expected one of {', '.join(NAMES)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads is {threads}, expected at least 1")
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "torch", f"Running `{checkpoint.name}`")
    from opengte.engine import torch as torch_engine  # heavy: only when a model runs

    return torch_engine.load(checkpoint, precision=precision, threads=threads, device=device)
