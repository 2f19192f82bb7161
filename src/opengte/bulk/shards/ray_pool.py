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
        self._waiting: list[ShardTask] = []
        self._running: dict[Any, tuple[ShardTask, Any]] = {}
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._start()
        try:  # one, so that what no worker can do is told at once
            ray.get(list(self._starting))
        except ray.exceptions.RayError as error:
            raise BrokenWorkerError(str(error)) from error
        for _ in range(self.size - 1):
            self._start()

    def _start(self) -> None:
        """Start an actor; Ray places it when a node has room, which may be never."""
        actor = self._actor.remote(self._settings)
        self._starting[actor.ready.remote()] = actor

    def submit(self, task: ShardTask) -> None:
        """Start a shard in an actor that has none, or as soon as there is one."""
        self._waiting.append(task)
        self._place()

    def _place(self) -> None:
        while self._waiting and self._idle:
            actor = self._idle.pop()
            task = self._waiting.pop(0)
            self._running[actor.run.remote(task)] = task, actor

    def outcomes(self, seconds: float) -> Iterator[tuple[ShardTask, Outcome]]:
        """Wait for at most so long, and yield what ended."""
        ready, _ = self._ray.wait([*self._running, *self._starting], timeout=seconds)
        for reference in ready:
            found = self._outcome(reference)
            if reference in self._starting:
                actor = self._starting.pop(reference)
            else:
                task, actor = self._running.pop(reference)
                yield task, found
            if isinstance(found, WorkerEnded):
                self._start()
            else:
                self._idle.append(actor)
        self._place()

    def _outcome(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            cause = error.cause
            return cause if isinstance(cause, Exception) else RuntimeError(str(error))
        except self._ray.exceptions.RayError as error:  # the actor, or its node, is gone
            return WorkerEnded(str(error).partition("\n")[0])

    def close(self) -> None:
        """End all actors."""
        busy = (actor for _, actor in self._running.values())
        for actor in [*self._idle, *self._starting.values(), *busy]:
            self._ray.kill(actor)
        self._idle, self._starting, self._running = [], {}, {}
