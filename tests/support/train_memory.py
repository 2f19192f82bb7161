"""Peak memory, in KiB, of a step on 16,384 pairs with a network of MiniLM's size.

Most texts are short, to be done soon: memory depends on the tokens of a chunk, of which the longest
texts, of 128 tokens, come first.
"""

import resource
import sys
from dataclasses import replace

import numpy as np
import torch

from opengte.arch import plan_of
from opengte.data import BatchTexts, TrainingBatch
from opengte.reference.initialization import init_model
from opengte.train import optim
from opengte.train.distributed import ParallelModule, World
from opengte.train.gradient_cache import GradientCache
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Contrastive
from tests.support.train_batches import packed, source

PAIRS = 16384
MINILM = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}


def column(generator: np.random.Generator, texts: int) -> BatchTexts:
    lengths = np.full(texts, 2)
    lengths[:64] = 128
    counts = np.full(PAIRS, texts // PAIRS, np.int32)
    return BatchTexts(
        packed(lengths[:texts], generator), counts, generator.integers(2**60, size=(texts, 2))
    )


def main() -> None:
    torch.set_num_threads(2)
    generator = np.random.default_rng(0)
    trainable = TrainableModel(init_model(replace(plan_of(MINILM), pooling="mean"), 0))
    optimiser = optim.adamw(trainable, weight_decay=0.01, betas=(0.9, 0.999), epsilon=1e-8)
    one, none = column(generator, PAIRS), column(generator, 0)
    rows, zero = np.arange(PAIRS), np.zeros(PAIRS, np.int32)
    known = np.zeros((0, 2), np.int64)
    batch = TrainingBatch(
        0, source(), PAIRS, 0, rows, one, column(generator, PAIRS), none, known, zero
    )
    passes = GradientCache(ParallelModule(trainable, [], World()), World(), 2048, 0)
    Contrastive(margin=0.1).step(passes, batch, (0, 0))
    optimiser.step()
    sys.stdout.write(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))


if __name__ == "__main__":
    main()
