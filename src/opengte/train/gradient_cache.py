"""Forward and backward passes over a batch in chunks of tokens: the gradient cache.

Gradient cache (GradCache, arXiv 2101.06983): encode the whole batch without keeping activations,
take the loss's gradient with respect to the outputs, then encode each chunk again and backpropagate
its part. The loss sees the whole batch; memory holds one chunk. Chunks are cut once, and each seeds
its own random numbers, so that both encodings use the same dropout masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opengte import batching
from opengte.batching import Indices
from opengte.errors import InputError
from opengte.reference.layers import to_device
from opengte.train.distributed import ParallelModule, World
from opengte.train.models.trainable import BY_TEXT
from opengte.types import Ints, PackedBatch

Outputs = dict[str, Tensor]
Loss = Callable[[Mapping[str, Tensor]], Tensor]


@dataclass(eq=False)
class GradientCache:
    """Runs a model forward and backward over batches.

    chunk_tokens bounds the tokens computed at once; kept_tokens bounds the tokens whose activations
    a process may keep: larger batches go through the gradient cache. computed counts the tokens
    that went forward and backward.
    """

    parallel: ParallelModule
    world: World
    chunk_tokens: int
    kept_tokens: int
    computed: int = 0

    def backward(self, batch: PackedBatch, loss: Loss, seed: tuple[int, ...]) -> Tensor:
        """Add the gradients of a loss over all texts; return this process's share, a scalar.

        loss maps the outputs of this process's texts, in the order of the batch, to its share.
        """
        chunks = self._chunks(batch)
        if self._caches(batch, len(chunks)):
            return self._cached(batch, chunks, loss, seed)
        kept = []
        for place, chunk in enumerate(chunks):
            with self.parallel.sums_gradients(place == len(chunks) - 1):
                kept.append(self._run(chunk, seed, place))
        share, gradients = _gradients(_assembled(batch, chunks, kept), loss)
        outputs, outer = [], []
        for chunk, found in zip(chunks, kept, strict=True):
            for name, part in _parts(batch, chunk, gradients).items():
                outputs.append(found[name])
                outer.append(part)
        torch.autograd.backward(outputs, outer)
        return share

    def _cached(
        self, batch: PackedBatch, chunks: "list[BatchChunk]", loss: Loss, seed: tuple[int, ...]
    ) -> Tensor:
        with torch.no_grad():
            cached = [self._run(chunk, seed, place) for place, chunk in enumerate(chunks)]
        share, gradients = _gradients(_assembled(batch, chunks, cached), loss)
        for place, chunk in enumerate(chunks):
            with self.parallel.sums_gradients(place == len(chunks) - 1):
                outputs = self._run(chunk, seed, place)
                parts = _parts(batch, chunk, gradients)
                torch.autograd.backward(list(outputs.values()), [parts[name] for name in outputs])
        return share

    def summed(
        self, batch: PackedBatch, targets: Ints, count: int, seed: tuple[int, ...]
    ) -> Tensor:
        """Add the gradients of the masked-token loss; return this process's share of it, a scalar.

        targets (t,) int32 are token ids, -1 where no token was masked; count is the number of
        masked tokens of the global batch.
        """
        share = torch.zeros((), device=self.world.device)
        chunks = self._chunks(batch)
        for place, chunk in enumerate(chunks):
            with self.parallel.sums_gradients(place == len(chunks) - 1):
                wanted = np.full(len(chunk.batch.ids), -1, np.int32)
                if chunk.texts is not None:
                    wanted = targets[chunk.tokens(batch)]
                loss = self._run(chunk, seed, place, wanted)["masked"] / max(1, count)
                loss.backward()  # type: ignore[no-untyped-call]
                share = share + loss.detach()
        return share

    def _run(
        self, chunk: "BatchChunk", seed: tuple[int, ...], place: int, targets: Ints | None = None
    ) -> Outputs:
        numbers = np.random.SeedSequence([*seed, self.world.rank, place])
        torch.manual_seed(int(numbers.generate_state(1, np.uint64)[0]))
        if torch.is_grad_enabled():
            self.computed += len(chunk.batch.ids)
        packed = to_device(chunk.batch, self.world.device)
        wanted = None
        if targets is not None:
            wanted = torch.from_numpy(targets.astype(np.int64)).to(self.world.device)
        outputs: Outputs = self.parallel.module(packed, wanted)
        return outputs

    def _chunks(self, batch: PackedBatch) -> "list[BatchChunk]":
        """Cut a batch; with sharded weights every process gets the same number of chunks."""
        parts = batching.cut_batches(batch.lengths, self.chunk_tokens)
        chunks = [BatchChunk(batch.select(part), part) for part in parts]
        wanted = max(1, len(chunks))
        if self.parallel.sharded:
            wanted = max(self.world.counts(wanted))
        return chunks + [BatchChunk(_EMPTY, None)] * (wanted - len(chunks))

    def _caches(self, batch: PackedBatch, chunks: int) -> bool:
        tokens = max(self.world.counts(len(batch.ids)))
        return chunks > 1 and (tokens > self.kept_tokens or self.parallel.sharded)


@dataclass(frozen=True, eq=False)
class BatchChunk:
    """Some texts of a batch. texts is None for a chunk that only keeps processes in step."""

    batch: PackedBatch
    texts: Indices | None

    def tokens(self, whole: PackedBatch) -> Indices:
        """Return the positions of the chunk's tokens in the whole batch."""
        assert self.texts is not None
        lengths = self.batch.lengths.astype(np.intp)
        shift = whole.cu_seqlens[self.texts] - self.batch.cu_seqlens[:-1]
        return np.repeat(shift.astype(np.intp), lengths) + np.arange(len(self.batch.ids))


_EMPTY = PackedBatch(
    np.zeros(1, np.int32), np.array([0, 1], np.int32), np.zeros(1, np.int32), np.zeros(1, np.int32)
)


def _places(name: str, chunk: BatchChunk, whole: PackedBatch, device: torch.device) -> Tensor:
    assert chunk.texts is not None
    places = chunk.texts if name in BY_TEXT else chunk.tokens(whole)
    return torch.from_numpy(places).to(device)


def _assembled(whole: PackedBatch, chunks: list[BatchChunk], found: list[Outputs]) -> Outputs:
    """Put the outputs of chunks back into the order of the batch, as leaf tensors."""
    assembled = {}
    for name, first in found[0].items():
        rows = len(whole) if name in BY_TEXT else len(whole.ids)
        table = first.new_zeros(rows, *first.shape[1:])
        for chunk, outputs in zip(chunks, found, strict=True):
            if chunk.texts is not None:
                table[_places(name, chunk, whole, table.device)] = outputs[name].detach()
        assembled[name] = table.requires_grad_()
    return assembled


def _gradients(outputs: Outputs, loss: Loss) -> tuple[Tensor, Outputs]:
    share = loss(outputs)
    share.backward()  # type: ignore[no-untyped-call]
    unused = [name for name, x in outputs.items() if x.grad is None]
    if unused:
        raise InputError(
            f"the loss uses no output `{unused[0]}`, so that nothing would train its head: "
            "leave it out of the trainable's outputs, or give it a weight"
        )
    return share.detach(), {name: x.grad for name, x in outputs.items() if x.grad is not None}


def _parts(whole: PackedBatch, chunk: BatchChunk, gradients: Outputs) -> Outputs:
    """Return a chunk's part of the outputs' gradients."""
    if chunk.texts is None:
        # nothing of this chunk counts
        return {
            name: x.new_zeros(len(chunk.batch) if name in BY_TEXT else 1, *x.shape[1:])
            for name, x in gradients.items()
        }
    return {name: x[_places(name, chunk, whole, x.device)] for name, x in gradients.items()}
