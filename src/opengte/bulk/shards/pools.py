"""Workers of a run in processes of this machine; a process that ends is noticed and replaced."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

from opengte.bulk.shards.worker import ShardCounts, ShardTask, ShardWorker, WorkerSettings


@dataclass(frozen=True)
class WorkerEnded:
    """A worker ended while it computed a shard."""

    reason: str


Outcome = ShardCounts | WorkerEnded | Exception


class WorkerPool(Protocol):
    """Computes shards, `size` of them at the same time."""

    size: int

    def submit(self, task: ShardTask) -> None:
        """Start a shard; there must be a worker that has none."""
        ...

    def outcomes(self, seconds: float) -> Iterator[tuple[ShardTask, Outcome]]:
        """Wait for at most so long, and yield what ended, with its counts or what went wrong."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


@dataclass
class _LocalWorker:
    process: Any
    connection: Connection
    task: ShardTask | None = None


class LocalPool:
    """Workers that are processes of this machine."""

    def __init__(self, settings: WorkerSettings, workers: int = 1) -> None:
        threads = settings.threads or max(1, len(os.sched_getaffinity(0)) // workers)
        self._settings = replace(settings, threads=threads)
        self._context = multiprocessing.get_context("spawn")
        self.size = workers
        self._workers: list[_LocalWorker] = []

    def submit(self, task: ShardTask) -> None:
        """Start a shard in a worker that has none."""
        free = next((one for one in self._workers if one.task is None), None) or self._start()
        free.task = task
        try:
            free.connection.send(task)
        except OSError:  # it has ended: `outcomes` says so
            pass

    def outcomes(self, seconds: float) -> Iterator[tuple[ShardTask, Outcome]]:
        """Wait for at most so long, and yield what ended."""
        busy = {one.connection: one for one in self._workers if one.task is not None}
        for connection in wait(list(busy), seconds):
            worker = busy[connection]  # type: ignore[index]
            task, worker.task = worker.task, None
            assert task is not None
            try:
                found = worker.connection.recv()
            except (EOFError, OSError):
                found = WorkerEnded(self._ended(worker))
            yield task, found

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.connection.close()
            worker.process.kill()
            worker.process.join()
        self._workers = []

    def _start(self) -> _LocalWorker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._settings)
        process = self._context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        self._workers.append(_LocalWorker(process, ours))
        return self._workers[-1]

    def _ended(self, worker: _LocalWorker) -> str:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join()
        code = worker.process.exitcode
        return f"signal {-code}" if code and code < 0 else f"exit status {code}"


def _serve(connection: Connection, settings: WorkerSettings) -> None:
    """Compute the shards that come, until the driver is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: ShardWorker | Exception
    try:
        worker = ShardWorker(settings)
    except Exception as error:  # told of every shard, of which the first ends the run
        worker = BrokenWorkerError(str(error) or type(error).__name__)
    try:
        while True:
            task = connection.recv()
            try:
                found: Any = worker.run(task) if isinstance(worker, ShardWorker) else worker
            except Exception as error:
                found = error if _can_be_sent(error) else RuntimeError(repr(error))
            connection.send(found)
    except (EOFError, OSError):
        return


class BrokenWorkerError(Exception):
    """No worker can be started."""


def _can_be_sent(error: Exception) -> bool:
    """Return whether an error arrives as what it is."""
    import pickle

    try:
        return type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        return False
