"""A small run on random batches: `python -m tests.support.train_run FOLDER [NAME=VALUE ...]`.

Settings are given by name; `resume=True` resumes; `slow=0.002` lets every tensor of a checkpoint
take so many seconds; `stop=6` interrupts the run in that step.
"""

import ast
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch

from opengte.data import BatchLoader, TrainingBatch
from opengte.reference import save
from opengte.reference.initialization import init_model
from opengte.train.distributed import World, join_processes, leave_processes
from opengte.train.loop import Evaluate, TrainingResult, train
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Contrastive
from opengte.train.settings import TrainingSettings
from tests.support.train_batches import part, random_batch
from tests.support.train_invariance import plan

ROWS = 8


class RandomBatches:
    """Batches as `opengte.data.BatchLoader` gives them: a function of the step."""

    def __init__(self, start: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.rank, self.world = start, rank, world

    def at(self, step: int) -> TrainingBatch:
        whole = random_batch(ROWS, step)
        cuts = [r * ROWS // self.world for r in range(self.world + 1)]
        return part(whole, cuts[self.rank], cuts[self.rank + 1])

    def __iter__(self) -> Iterator[TrainingBatch]:
        step = self.start
        while True:
            yield self.at(step)
            step += 1

    def __enter__(self) -> "RandomBatches":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def make(start: int, rank: int, world: int) -> BatchLoader:
    return cast(BatchLoader, RandomBatches(start, rank, world))


def run(
    folder: Path,
    world: World | None = None,
    *,
    resume: bool = False,
    evaluate: Evaluate | None = None,
    make_batches: Any = make,
    identity: dict[str, str] | None = None,
    **changes: Any,
) -> tuple[TrainingResult, TrainableModel]:
    """Train a tiny model, from the same first weights each time."""
    values: dict[str, Any] = {
        "steps": 12,
        "learning_rate": 1e-2,
        "save_every": 3,
        "log_every": 2,
        "chunk_tokens": 60,
        "memory": 1e-9,
        "peak_tflops": 1.0,
        "progress": False,
        "dropout": 0.1,
        "ema": 0.9,
    }
    settings = TrainingSettings(**(values | changes))
    objective = Contrastive(temperature=0.1)
    trainable = TrainableModel(
        init_model(plan(), 0, std=0.2), objective.outputs, settings.precision
    )
    result = train(
        trainable,
        make_batches,
        objective,
        settings,
        folder,
        world=world,
        identity=identity,
        evaluate=evaluate,
        resume=resume,
    )
    return result, trainable


def slow_writes(seconds: float) -> None:
    """Let a checkpoint take long."""
    write = save.write_safetensors

    def slowly(path: Path, layout: Any, values: Any) -> None:
        def delayed() -> Iterator[torch.Tensor]:
            for value in values:
                time.sleep(seconds)
                yield value

        write(path, layout, delayed())

    save.write_safetensors = slowly


def main(folder: str, *arguments: str) -> None:
    logging.basicConfig(level=logging.INFO)
    torch.set_num_threads(1)
    options = {name: ast.literal_eval(value) for name, value in (a.split("=") for a in arguments)}
    slow_writes(options.pop("slow", 0.0))
    stop = options.pop("stop", None)
    world = join_processes("cpu")

    class Stopped(RandomBatches):
        def at(self, step: int) -> TrainingBatch:
            if step + 1 == stop:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().at(step)

    def make_stopped(start: int, rank: int, world: int) -> BatchLoader:
        return cast(BatchLoader, Stopped(start, rank, world))

    try:
        run(Path(folder), world, make_batches=make_stopped, **options)
    finally:
        leave_processes()


if __name__ == "__main__":
    main(*sys.argv[1:])
