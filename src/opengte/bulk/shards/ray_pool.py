"""Workers of a run as Ray actors, on the nodes of a cluster; a lost one is replaced."""

from collections.abc import Iterator
from typing import Any

from opengte.bulk.shards.pools import BrokenWorkerError, Outcome, WorkerEnded
from opengte.bulk.shards.worker import ShardTask, ShardWorker, WorkerSettings
from opengte.errors import MissingExtraError


class RayPool:
    """Workers that are actors of Ray, each with so many CPUs and GPUs.

    address is that of a cluster; None: the one that this process is connected to, or else the one
    of `RAY_ADDRESS`, or else a new one on this machine. workers None: as many as fit the cluster.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        workers: int | None = None,
        *,
        cpus: float = 1,
        gpus: float = 0,
        address: str | None = None,
    ) -> None:
        try:
            import ray as package
        except ImportError as error:
            raise MissingExtraError("ray", "bulk", "--on ray") from error
        ray: Any = package
        self._ray = ray
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
        self._actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus)(ShardWorker)
        self._settings = settings
        fits = [ray.cluster_resources().get("CPU", 0) // cpus] if cpus else []
        fits += [ray.cluster_resources().get("GPU", 0) // gpus] if gpus else []
        self.size = workers or max(1, int(min(fits)))
        self._idle: list[Any] = [self._first()]
        self._running: dict[Any, tuple[ShardTask, Any]] = {}

    def _first(self) -> Any:
        """Start one worker and wait for it, so that what no worker can do is told at once."""
        actor = self._actor.remote(self._settings)
        try:
            self._ray.get(actor.ready.remote())
        except self._ray.exceptions.RayError as error:
            raise BrokenWorkerError(str(error)) from error
        return actor

    def submit(self, task: ShardTask) -> None:
        """Start a shard in an actor that has none."""
        actor = self._idle.pop() if self._idle else self._actor.remote(self._settings)
        self._running[actor.run.remote(task)] = task, actor

    def outcomes(self, seconds: float) -> Iterator[tuple[ShardTask, Outcome]]:
        """Wait for at most so long, and yield what ended."""
        ready, _ = self._ray.wait(list(self._running), timeout=seconds)
        errors = self._ray.exceptions
        for reference in ready:
            task, actor = self._running.pop(reference)
            try:
                found: Outcome = self._ray.get(reference)
            except errors.RayTaskError as error:
                cause = error.cause
                found = cause if isinstance(cause, Exception) else RuntimeError(str(error))
            except errors.RayError as error:  # the actor, or its node, is gone
                yield task, WorkerEnded(str(error).partition("\n")[0])
                continue
            self._idle.append(actor)
            yield task, found

    def close(self) -> None:
        """End all actors."""
        for actor in [*self._idle, *(actor for _, actor in self._running.values())]:
            self._ray.kill(actor)
        self._idle, self._running = [], {}
