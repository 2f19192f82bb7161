"""One loss and one gradient, however the batch is divided: in float64, to 1e-9.

Over 1, 2 and 4 processes with DDP and FSDP2, even and uneven rows, any chunks, with the gradient
cache and without it; and packed as padded, against transformers.
"""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opengte.arch import plan_of
from opengte.arch.bert import BERT
from opengte.arch.tensors import resolve_slots
from opengte.reference.initialization import init_model
from opengte.train.distributed import ParallelModule, World
from opengte.train.gradient_cache import GradientCache
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Contrastive
from opengte.types import PackedBatch
from tests.support import train_invariance as ways
from tests.support import train_naive as naive
from tests.support.train_batches import VOCABULARY, random_batch

ROOT = Path(__file__).parents[2]
NOT_OURS = ("EADDRINUSE", "terminate called without an active exception")


def launch(size: int, *arguments: str) -> None:
    """Run a module in so many processes, as torchrun does; again if it was not the module's fault.

    The port may have been taken meanwhile, and PyTorch aborts now and then while it is torn down.
    """
    for _ in range(3):
        codes, errors = _launch(size, *arguments)
        if not any(fault in errors for fault in NOT_OURS):
            break
    assert not any(codes), errors


def _launch(size: int, *arguments: str) -> tuple[list[int], str]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    running = []
    for rank in range(size):
        env = os.environ | {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", *arguments]
        running.append(
            subprocess.Popen(
                command, env=env, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
    errors = [process.communicate(timeout=300)[1].decode() for process in running]
    return [process.returncode for process in running], "\n".join(errors)


@pytest.fixture(scope="session")
def alone() -> dict[str, dict[str, Any]]:
    """Each objective on the whole batch, in this process."""
    whole = ways.Way("whole")
    return {
        name: ways.compute(objective, batch, whole, World())
        for name, objective, batch in ways.objectives()
    }


@pytest.mark.parametrize("way", [w for w in ways.WAYS if w.parallel == "ddp"], ids=lambda w: w.name)
def test_chunks_and_the_gradient_cache_change_nothing(
    way: ways.Way, alone: dict[str, dict[str, Any]]
) -> None:
    for name, objective, batch in ways.objectives():
        found = ways.compute(objective, batch, way, World())
        assert_same(found, alone[name], f"{name} {way.name}")


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_processes_and_sharding_change_nothing(
    size: int, alone: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    launch(size, "tests.support.train_invariance", str(tmp_path))
    for name, expected in alone.items():
        for way in ways.WAYS:
            with np.load(tmp_path / f"{name}-{way.name}-{size}.npz") as found:
                assert_same(dict(found), expected, f"{name} {way.name} {size}")


def assert_same(found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
    assert found.keys() == expected.keys(), what
    assert np.abs(expected["loss"]) > 1e-3, what
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=1e-9, err_msg=f"{what} {key}")


def test_dropped_values_are_the_same_in_both_encodings() -> None:
    _, objective, batch = next(ways.objectives())
    found = []
    for kept in (0, 10**9):
        module = ways.trainable(objective)
        module.set_dropout(0.2)
        parallel = ParallelModule(module, [], World())
        share = objective.step(GradientCache(parallel, World(), 40, kept), batch, (0, 3))
        found.append([share.loss, *(p.grad for p in module.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)
    again = objective.step(GradientCache(parallel, World(), 40, 0), batch, (0, 4)).loss
    assert again != found[0][0]  # another step drops other values


def test_packed_sequences_train_as_padded_ones_do_in_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    theirs = transformers.BertModel(config, add_pooling_layer=False).double().train()
    plan = replace(plan_of(config.to_dict()), pooling="mean")
    names = resolve_slots(plan, BERT, dict(theirs.named_parameters()))
    model = init_model(plan, 0).double()
    tensors = dict(theirs.named_parameters())
    for slot, pieces in names.items():
        value = torch.cat([tensors[piece.tensor] for piece in pieces])
        model.get_parameter(slot).data.copy_(value)
    batch = random_batch(5, 1)
    objective = Contrastive(masks=False, temperature=0.05)
    passes = GradientCache(ParallelModule(TrainableModel(model), [], World()), World(), 30, 0)
    loss = objective.step(passes, batch, (0, 0)).loss

    columns = [c.texts for c in (batch.query, batch.positive, batch.negative)]
    queries, positives, negatives = (padded_means(theirs, texts) for texts in columns)
    flat = list(negatives.split(batch.negative.counts.tolist()))
    blank = [[""] * len(x) for x in flat]
    texts = naive.Texts(queries, positives, flat, [""] * 5, [""] * 5, blank)
    expected = naive.improved(texts, 0.05, masks=False)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=0, atol=1e-10)
    for slot, pieces in names.items():
        want = torch.cat([tensors[piece.tensor].grad for piece in pieces])
        torch.testing.assert_close(model.get_parameter(slot).grad, want, rtol=0, atol=1e-9)


def padded_means(model: Any, texts: PackedBatch) -> torch.Tensor:
    """Mean-pooled states of a padded batch."""
    rows = [
        torch.from_numpy(x.astype(np.int64)) for x in np.split(texts.ids, texts.cu_seqlens[1:-1])
    ]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.arange(ids.shape[1])[None] < torch.from_numpy(texts.lengths)[:, None]
    states = model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


@pytest.mark.slow
def test_a_large_batch_needs_the_memory_of_one_chunk() -> None:
    command = [sys.executable, "-m", "tests.support.train_memory"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 8 << 20  # KiB


def test_something_is_measured(alone: dict[str, dict[str, Any]]) -> None:
    for name, results in alone.items():
        gradients = [np.abs(value).max() for key, value in results.items() if key != "loss"]
        # a softmax over scores does not see what they all have: the last two biases
        unseen = 2 if name == "ranking" else 0
        assert len(gradients) >= 20 and sorted(gradients)[unseen] > 1e-7, name


@pytest.fixture(autouse=True)
def no_seed_left() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield
