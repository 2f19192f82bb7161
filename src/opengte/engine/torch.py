"""The PyTorch engine: every architecture, on CPU or GPU."""

import atexit
import os
import threading
import weakref
from typing import NoReturn

import numpy as np
import torch

from opengte.checkpoint import Checkpoint
from opengte.engine.base import EngineResult, cannot_be_pickled
from opengte.errors import EngineError
from opengte.process_lock import ProcessLock
from opengte.reference.devices import usable_device
from opengte.reference.layers import PackedTensors, to_device
from opengte.reference.load import load_reference_model as load_model
from opengte.reference.load import read_pickle
from opengte.reference.model import ReferenceModel
from opengte.types import Floats, Output, PackedBatch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CPU_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 65536


class TorchEngine:
    """A model in PyTorch."""

    name = "torch"

    def __init__(self, model: ReferenceModel, precision: str, device: torch.device) -> None:
        self.precision = precision
        self.device = str(device)
        self.threads = torch.get_num_threads() if device.type == "cpu" else 1
        self.max_batch_tokens = CPU_BATCH_TOKENS if device.type == "cpu" else GPU_BATCH_TOKENS
        self._model = model
        self._device = device
        # CPU kernels already use all threads: two concurrent batches would only compete for caches
        self._lock = ProcessLock()
        self._process = os.getpid()
        self._ending = False
        _ENGINES.add(self)

    def run(self, batch: PackedBatch, outputs: frozenset[Output]) -> EngineResult:
        """Compute the requested outputs of an encoder."""
        with self._lock, torch.inference_mode():
            self._check_state()
            packed = to_device(batch, self._device)
            states = self._model(packed)
            return EngineResult(
                dense=_numpy(self._model.pool(states, packed)) if "dense" in outputs else None,
                sparse=_numpy(self._model.sparse_weights(states)) if "sparse" in outputs else None,
                tokens=_numpy(self._model.token_vectors(states)) if "tokens" in outputs else None,
                states=_numpy(states) if "states" in outputs else None,
            )

    def score(self, batch: PackedBatch) -> EngineResult:
        """Compute the scores of a reranker's pairs."""
        with self._lock, torch.inference_mode():
            self._check_state()
            packed: PackedTensors = to_device(batch, self._device)
            return EngineResult(score=_numpy(self._model.scores(self._model(packed), packed)))

    def __reduce__(self) -> NoReturn:
        raise cannot_be_pickled()

    def end_threads(self) -> None:
        """Wait for the batch that is computed, then end each thread that comes with another."""
        with self._lock:
            self._ending = True

    def _check_state(self) -> None:
        """In a forked child compute on one thread: PyTorch's threads stayed in the parent."""
        if self._ending and threading.current_thread() is not threading.main_thread():
            raise SystemExit  # which ends a thread without a word
        if self._process == os.getpid():
            return
        if self._device.type != "cpu":
            raise EngineError(
                f"the model was loaded on {self.device} before this process was forked, and a GPU "
                "cannot be used across a fork. Load it after the fork, or start processes with "
                "the method 'spawn'."
            )
        torch.set_num_threads(1)
        self._process = os.getpid()
        self._ending = False
        _ENGINES.add(self)


_ENGINES: "weakref.WeakSet[TorchEngine]" = weakref.WeakSet()


@atexit.register
def _end_threads() -> None:
    """Leave no thread inside PyTorch, which aborts the process if CPython ends such a thread."""
    for engine in list(_ENGINES):
        engine.end_threads()


def _numpy(x: torch.Tensor) -> Floats:
    result: Floats = x.float().cpu().numpy()
    return np.ascontiguousarray(result)


def load_torch_engine(
    checkpoint: Checkpoint,
    *,
    precision: str = "auto",
    threads: int | None = None,
    device: str | None = None,
) -> TorchEngine:
    """Load a checkpoint's weights into PyTorch.

    Precision `auto` runs bf16 files in bf16, fp16 files in fp16 on a GPU and fp32 on a CPU, and
    everything else in fp32. threads sets the number of CPU threads of the whole PyTorch process.
    """
    place = usable_device(device)
    chosen = _precision(precision, checkpoint.stored_dtype, place)
    if threads is not None:
        torch.set_num_threads(threads)
    model = load_model(checkpoint.plan, checkpoint.chunks(read_pickle), DTYPES[chosen], place)
    return TorchEngine(model, chosen, place)


def has_gpu() -> bool:
    """Return whether PyTorch can use a GPU here."""
    return torch.cuda.is_available()


def _precision(wanted: str, stored: str, device: torch.device) -> str:
    if wanted == "auto":
        if stored == "bf16":
            return "bf16"
        return "fp16" if stored == "fp16" and device.type != "cpu" else "fp32"
    if wanted not in DTYPES:
        raise EngineError(
            f"precision is {wanted!r}, which the torch engine does not have: "
            f"expected auto, {', '.join(DTYPES)}"
        )
    return wanted
