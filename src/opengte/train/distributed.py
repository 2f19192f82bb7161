"""Processes that train together: their ranks, exact gathers, and a model replicated or sharded.

Every process computes its share of one loss, and gradients are summed over processes, so that the
result does not depend on their number.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from opengte.errors import InputError
from opengte.reference.devices import usable_device
from opengte.reference.layers import accumulate_lookups_in_place

Parallelism = Literal["auto", "ddp", "fsdp2"]


@dataclass(frozen=True)
class World:
    """The processes of a training run, and the device of this one."""

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Return whether this process has rank 0, which writes the files."""
        return self.rank == 0

    def gather(self, x: Tensor) -> Tensor:
        """Return the rows of all processes, in order of rank; gradients flow back to each.

        The numbers of rows may differ.
        """
        if self.size == 1:
            return x
        counts = self.counts(len(x))
        if not any(counts):
            return x
        gathered: Tensor = _Gather.apply(x, counts, self.rank)  # type: ignore[no-untyped-call]
        return gathered

    def counts(self, count: int) -> list[int]:
        """Return every process's count, in order of rank."""
        if self.size == 1:
            return [count]
        counts = torch.zeros(self.size, dtype=torch.int64, device=self.device)
        counts[self.rank] = count
        dist.all_reduce(counts)
        return [int(c) for c in counts.tolist()]

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over processes."""
        if self.size > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
        return values

    def wait(self) -> None:
        """Wait at a barrier for all processes."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """Concatenation over processes; backward sums all ranks' gradients for a row's owner."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: list[int], rank: int) -> Tensor:
        ctx.counts, ctx.rank = counts, rank
        longest = max(counts)
        padded = x.new_zeros(longest, *x.shape[1:])
        padded[: len(x)] = x
        table = x.new_empty(len(counts) * longest, *x.shape[1:])
        dist.all_gather_into_tensor(table, padded)
        parts = torch.split(table, longest)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        longest = max(ctx.counts)
        table = outer[0].new_zeros(len(ctx.counts), longest, *outer[0].shape[1:])
        for place, part in enumerate(torch.split(outer[0], ctx.counts)):
            table[place, : len(part)] = part
        mine = torch.empty_like(table[0])
        dist.reduce_scatter_tensor(mine, table.flatten(0, 1))
        return mine[: ctx.counts[ctx.rank]], None, None


def join_processes(device: str | None = None) -> World:
    """Join the processes that torchrun started; without torchrun, return a world of one process.

    device is `cpu`, `cuda` or a device's full name; None uses a GPU if there is one.
    EngineError for a device that PyTorch cannot use.

    >>> join_processes("cpu")
    World(rank=0, size=1, device=device(type='cpu'))
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if "RANK" not in os.environ:
        return World(device=usable_device(device))
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    place = usable_device(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", local)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return World(rank, size, place)


def leave_processes() -> None:
    """Leave the process group that `join_processes` joined.

    >>> leave_processes()  # without a process group, nothing happens
    """
    if dist.is_initialized():
        dist.destroy_process_group()


class ParallelModule:
    """A module on all processes, replicated (DDP) or sharded (FSDP2), with summed gradients.

    module is called for a forward pass; parts are the submodules that FSDP2 shards one by one.
    """

    def __init__(
        self,
        module: nn.Module,
        parts: list[nn.Module],
        world: World,
        kind: Parallelism = "auto",
        precision: str = "fp32",
    ) -> None:
        self.inner = module
        self.sharded = kind == "fsdp2"
        self.module: nn.Module = module
        if self.sharded:
            _shard(module, parts, world, precision)
        elif world.size > 1:
            self.module = _replicate(module)

    def rest(self) -> None:
        """Reshard weights that a forward pass gathered."""
        if self.sharded:
            for module in self.inner.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    @contextmanager
    def sums_gradients(self, on: bool) -> Iterator[None]:
        """Sum the gradients of the passes inside over processes, or only accumulate them here."""
        if self.sharded:
            sharded = cast(FSDPModule, self.module)
            sharded.set_requires_gradient_sync(on)
            sharded.set_is_last_backward(on)
            yield
        elif not isinstance(self.module, DistributedDataParallel):
            with accumulate_lookups_in_place():
                yield
        elif on:  # hooks find the gradients to sum
            yield
        else:
            with self.module.no_sync(), accumulate_lookups_in_place():
                yield


def _shard(module: nn.Module, parts: list[nn.Module], world: World, precision: str) -> None:
    if not dist.is_initialized():
        raise InputError(
            "parallel is 'fsdp2', which needs processes started by torchrun: "
            "run `torchrun --nproc-per-node N -m opengte.cli ...`, or use parallel='ddp'"
        )
    half = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    policy = half if precision == "bf16" else MixedPrecisionPolicy()
    mesh = init_device_mesh(world.device.type, (world.size,))
    for part in [*parts, module]:
        fully_shard(part, mesh=mesh, mp_policy=policy)
        sharded = cast(FSDPModule, part)
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)


def _replicate(module: nn.Module) -> DistributedDataParallel:
    replica = DistributedDataParallel(module)
    replica.register_comm_hook(None, _sum)
    return replica


def _sum(
    _: object,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    future: torch.futures.Future[list[Tensor]] = work.get_future()
    return future.then(lambda done: done.value()[0])
