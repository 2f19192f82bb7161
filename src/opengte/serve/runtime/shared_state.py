"""What all processes of a server have in common, and which of them this one is."""

from dataclasses import dataclass

from opengte.serve.auth import rate_limits
from opengte.serve.observability import metric_store
from opengte.serve.observability.load_history import LoadRing
from opengte.serve.shared_memory import SharedMemory

Descriptors = tuple[int, int, int]


@dataclass(frozen=True)
class Common:
    """The shared memory of limits, metrics and recent load, and this process's row of these."""

    limits: SharedMemory
    board: SharedMemory
    load: SharedMemory
    workers: int = 1
    row: int = 0

    def descriptors(self) -> Descriptors:
        """Return what another process needs to join."""
        return self.limits.descriptor, self.board.descriptor, self.load.descriptor

    def close(self) -> None:
        """Let go of the memory, once no part of it is used."""
        for one in (self.limits, self.board, self.load):
            one.close()


def new_common(workers: int) -> Common:
    """Return new shared memory for so many processes."""
    load = SharedMemory(LoadRing.size_for(workers))
    return Common(rate_limits.memory(), metric_store.memory(workers), load, workers)


def join_common(descriptors: Descriptors, workers: int, row: int) -> Common:
    """Return the shared memory of inherited descriptors."""
    return Common(
        rate_limits.memory(descriptors[0]),
        metric_store.memory(workers, descriptors[1]),
        SharedMemory(LoadRing.size_for(workers), descriptors[2]),
        workers,
        row,
    )
