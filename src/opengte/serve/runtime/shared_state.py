"""The memory that all worker processes of a server share, and the row of it that one writes."""

from dataclasses import dataclass

from opengte.serve.auth.rate_limits import rate_limit_memory
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metric_store import metric_memory
from opengte.serve.shared_memory import SharedMemory

Descriptors = tuple[int, int, int]


@dataclass(frozen=True)
class SharedState:
    """Shared memory of rate limits, metrics and recent load, and this process's row of them."""

    limits: SharedMemory
    metrics: SharedMemory
    load: SharedMemory
    workers: int = 1
    row: int = 0

    @classmethod
    def create(cls, workers: int) -> "SharedState":
        """Allocate memory for so many processes."""
        load = SharedMemory(LoadHistory.size_for(workers))
        return cls(rate_limit_memory(), metric_memory(workers), load, workers)

    @classmethod
    def join(cls, descriptors: Descriptors, workers: int, row: int) -> "SharedState":
        """Map the memory behind inherited file descriptors."""
        limits, metrics, load = descriptors
        return cls(
            rate_limit_memory(limits),
            metric_memory(workers, metrics),
            SharedMemory(LoadHistory.size_for(workers), load),
            workers,
            row,
        )

    def descriptors(self) -> Descriptors:
        """Return the file descriptors that another process needs to join."""
        return self.limits.descriptor, self.metrics.descriptor, self.load.descriptor

    def close(self) -> None:
        """Unmap the memory, once nothing in this process uses it."""
        for memory in (self.limits, self.metrics, self.load):
            memory.close()
