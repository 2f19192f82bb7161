"""A decoder of 7 billion weights, sharded by shape; a small one, filled shard by shard.

`python -m tests.support.train_shapes FOLDER`: FOLDER is a checkpoint.
"""

import os
import sys

import torch
from torch.distributed.tensor import DTensor

from opengte import checkpoint
from opengte.arch import plan_of
from opengte.reference.model import ReferenceModel
from opengte.train.distributed import ParallelModule, join_processes, leave_processes
from opengte.train.models.loading import build_trainable, load_trainable
from opengte.train.models.trainable import TrainableModel, activation_bytes

QWEN2_7B = {
    "model_type": "qwen2",
    "vocab_size": 151646,
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "is_causal": False,
}


def main(folder: str) -> None:
    world = join_processes("cpu")
    with torch.device("meta"):
        model = ReferenceModel(plan_of(QWEN2_7B))
    trainable = TrainableModel(model)
    ParallelModule(trainable, trainable.parts, world, "fsdp2", "bf16")
    local = sum(p.to_local().numel() for p in trainable.parameters() if isinstance(p, DTensor))
    assert 7.0e9 < local * world.size < 7.1e9
    assert 1e6 < activation_bytes(model, "bf16") < 2e7

    found = checkpoint.read_checkpoint(folder)
    small, start = build_trainable(found)
    trainable = TrainableModel(small, fill=start.fill)
    ParallelModule(trainable, trainable.parts, world, "fsdp2")
    trainable.materialise(world.device)
    for name, expected in load_trainable(found).named_parameters():
        sharded = small.get_parameter(name)
        assert isinstance(sharded, DTensor)
        assert torch.equal(sharded.full_tensor(), expected), name
    leave_processes()
    # all was checked; tearing torch.distributed down after a meta model aborts now and then
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
