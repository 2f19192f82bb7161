"""Engines compute packed batches of token ids. `load_engine` chooses one."""

import importlib.util
import warnings
from pathlib import Path

from opengte.checkpoint import Checkpoint
from opengte.engine import native, native_extension
from opengte.engine.base import Engine
from opengte.errors import EngineError, FallbackWarning, MissingExtraError

NAMES = ("auto", "native", "torch")
GPU_NODES = ("/dev/nvidiactl", "/dev/kfd")  # of GPU drivers; importing torch to ask is slow


def load_engine(
    checkpoint: Checkpoint,
    *,
    engine: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    device: str | None = None,
) -> Engine:
    """Load a checkpoint's weights into an engine.

    `native` is the compiled CPU engine, `torch` runs on CPUs and GPUs. `auto` uses torch if there
    is a GPU, otherwise native; a FallbackWarning says why it uses torch without a GPU.
    """
    if engine not in NAMES:
        raise EngineError(f"engine is {engine!r}, expected one of {', '.join(NAMES)}")
    if threads is not None and threads < 1:
        raise EngineError(f"threads is {threads}, expected at least 1")
    chosen = _choose(checkpoint, precision, device) if engine == "auto" else engine
    if chosen == "native":
        return native.load_native_engine(
            checkpoint, precision=precision, threads=threads, device=device
        )
    return _torch(checkpoint, precision, threads, device)


def _choose(checkpoint: Checkpoint, precision: str, device: str | None) -> str:
    if device not in (None, "cpu") or (device is None and _has_gpu()):
        return "torch"
    if precision == "fp16":
        return "torch"
    if reason := _not_native(checkpoint):
        warnings.warn(
            f"`{checkpoint.name}` runs on PyTorch instead of the compiled CPU engine: {reason}",
            FallbackWarning,
            stacklevel=5,
        )
        return "torch"
    return "native"


def _not_native(checkpoint: Checkpoint) -> str | None:
    """Return the reason why the compiled engine cannot run a checkpoint, or None."""
    if not native_extension.available():
        return "the extension is not installed; reinstall where a C++20 compiler is present"
    if checkpoint.pickles:
        return f"its weights are pickles: {', '.join(checkpoint.pickles)}"
    return None


def _has_gpu() -> bool:
    if not _has_torch() or not any(Path(node).exists() for node in GPU_NODES):
        return False
    from opengte.engine import torch as torch_engine

    return torch_engine.has_gpu()


def _has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def _torch(
    checkpoint: Checkpoint, precision: str, threads: int | None, device: str | None
) -> Engine:
    if not _has_torch():
        raise MissingExtraError("torch", "torch", f"Running `{checkpoint.name}` on PyTorch")
    from opengte.engine import torch as torch_engine  # imported only when a model runs on it

    return torch_engine.load_torch_engine(
        checkpoint, precision=precision, threads=threads, device=device
    )
