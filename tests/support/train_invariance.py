"""Gradients of one global batch in many ways: run by tests/train/test_invariance.py.

`python -m tests.support.train_invariance FOLDER` computes every case of this world's size and
writes FOLDER/CASE-SIZE.npz: the loss and the gradient of each parameter.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from opengte.arch import plan_of, with_masked_head
from opengte.arch.plan import Plan, ScoreHead
from opengte.data import BatchTexts, TrainingBatch
from opengte.reference.initialization import init_model
from opengte.train.distributed import ParallelModule, World, join_processes, leave_processes
from opengte.train.gradient_cache import GradientCache
from opengte.train.models.trainable import TrainableModel, concatenate_batches
from opengte.train.objectives import Contrastive, LossShare, MaskedTokens, Objective, Ranking
from opengte.train.objectives.base import loss_share
from tests.support.train_batches import VOCABULARY, bounds, part, random_batch, source

ROWS = 9


@dataclass(frozen=True)
class Way:
    """One way to compute: how the model is spread, the chunk, cached or not, whose rows."""

    name: str
    parallel: str = "ddp"
    chunk: int = 10**9
    kept: int = 10**9
    spread: str = "even"
    recompute: bool = False


WAYS = (
    Way("whole"),
    Way("uneven", spread="uneven"),
    Way("chunks", chunk=40),
    Way("cached", chunk=40, kept=0),
    Way("cached-recomputed", chunk=40, kept=0, recompute=True),
    Way("idle", chunk=40, kept=0, spread="idle"),
    Way("cached-one-text-a-chunk", chunk=1, kept=0, spread="uneven"),
    Way("sharded", parallel="fsdp2"),
    Way("sharded-recomputed", parallel="fsdp2", recompute=True),
    Way("sharded-idle", parallel="fsdp2", chunk=40, kept=0, spread="idle"),
    Way("sharded-cached", parallel="fsdp2", chunk=40, kept=0),
    Way("sharded-cached-uneven", parallel="fsdp2", chunk=23, kept=0, spread="uneven"),
)


def plan(**changes: Any) -> Plan:
    config = {
        "model_type": "new",
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 0,
    }
    return replace(plan_of(config), pooling="mean", **changes)


def objectives() -> Iterator[tuple[str, Objective, TrainingBatch]]:
    """Each loss with the batch that it is computed on."""
    batch, repeats = random_batch(ROWS, 5), random_batch(ROWS, 6, words=6)
    scored = random_batch(ROWS, 7, scored=True)
    yield "improved", Contrastive(), batch
    yield "repeated-texts", Contrastive(margin=0.1, temperature=0.05), repeats
    yield "info-nce", Contrastive("info_nce", dimensions={16: 1.0, 8: 0.5}), batch
    alone = replace(repeats, source=source(in_batch_negatives=False, temperature=0.1))
    yield "own-negatives", Contrastive(), alone
    yield "heads", Contrastive(sparse=0.3, saturate=True, flops=0.01, tokens=0.2), batch
    yield "kl", Contrastive(distil=0.5), scored
    yield "margin-mse", Contrastive(distil=0.5, distil_by="margin_mse"), scored
    yield "cosent", Contrastive(), replace(scored, source=source(kind="scored"))
    yield "ranking", Scores(cast(Any, None), 64, distil=0.5, distil_by="margin_mse"), scored
    yield "ranking-alone", Scores(cast(Any, None), 64, loss="binary"), batch
    yield "masked", MaskedTokens(1, VOCABULARY, (2,)), batch


class Scores(Ranking):
    """A reranker that sees documents only: queries are for a tokenizer to join."""

    def step(self, passes: GradientCache, batch: TrainingBatch, seed: tuple[int, ...]) -> LossShare:
        texts = concatenate_batches([batch.positive.texts, batch.negative.texts])
        rows = np.concatenate([np.repeat(np.arange(len(batch)), c.counts) for c in columns(batch)])
        texts = texts.select(np.argsort(rows, kind="stable"))
        loss = passes.backward(texts, partial(self.share, batch, passes.world), seed)
        return loss_share(loss, texts)


def columns(batch: TrainingBatch) -> tuple[BatchTexts, BatchTexts]:
    return batch.positive, batch.negative


def trainable(objective: Objective) -> TrainableModel:
    heads: dict[str, Any] = {}
    if "sparse" in objective.outputs:
        heads = {"sparse": True, "token_width": 6}
    if "score" in objective.outputs:
        heads = {"score": ScoreHead("mean", None, None, 1, True)}
    network = plan(**heads)
    if "masked" in objective.outputs:
        network = with_masked_head(network)
    model = init_model(network, 0, std=0.3).double()
    return TrainableModel(model, objective.outputs)


def compute(objective: Objective, batch: TrainingBatch, way: Way, world: World) -> dict[str, Any]:
    """Return the loss of the global batch and the gradients, both the same on every process."""
    module = trainable(objective)
    module.model.recompute = way.recompute
    names = {id(p): name for name, p in module.named_parameters()}
    order = [names[id(p)] for p in module.parameters()]
    parallel = ParallelModule(module, module.parts, world, way.parallel)  # type: ignore[arg-type]
    cuts = bounds(ROWS, world.size, way.spread)
    mine = part(batch, cuts[world.rank], cuts[world.rank + 1])
    passes = GradientCache(parallel, world, way.chunk, way.kept)
    share = objective.step(passes, mine, (0, batch.step))
    results = {"loss": world.sum(share.loss).numpy()}
    for name, parameter in zip(order, module.parameters(), strict=True):
        if parameter.requires_grad:
            results[name] = full(parameter).numpy()
    return results


def full(parameter: nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad
    assert gradient is not None
    return gradient.full_tensor() if isinstance(gradient, DTensor) else gradient


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    world = join_processes("cpu")
    for name, objective, batch in objectives():
        for way in WAYS:
            results = compute(objective, batch, way, world)
            if world.is_first:
                np.savez(folder / f"{name}-{way.name}-{world.size}.npz", **results)
    dist.barrier()
    leave_processes()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
