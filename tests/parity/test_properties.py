"""What holds for every architecture: one vector a text, however it is batched, stored or run."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.strategies import integers, lists

from opengte.types import PackedBatch
from tests.parity import packed
from tests.parity.families import FAMILIES
from tests.support import checkpoints, naive

LENGTHS = (1, 2, 3, 17, 64, 65, 130, 130)
SAME = 1e-6  # one text in different batches, fp32, unit length


@pytest.fixture(params=FAMILIES, scope="module")
def family(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    FAMILIES[request.param](folder)
    return folder


@pytest.fixture(scope="module")
def family_engine(family):
    return packed.load(family)


@pytest.fixture
def own_family(request, tmp_path):
    FAMILIES[request.param](tmp_path)
    return tmp_path


def _unit(engine, batch):
    return naive.unit(packed.dense(engine, batch))


def test_one_vector_in_any_batch_and_order(family):
    engine, rows = packed.load(family), packed.rows_of(LENGTHS)
    batch = packed.pack(rows)
    together = _unit(engine, batch)
    alone = np.concatenate([_unit(engine, packed.pack([row])) for row in rows])
    packed.close(together, alone, SAME)
    order = np.random.default_rng(5).permutation(len(rows))
    packed.close(_unit(engine, batch.select(order)), together[order], SAME)
    packed.close(_unit(engine, batch), together, 0)


@given(lengths=lists(integers(1, 90), min_size=1, max_size=9))
@settings(max_examples=15, deadline=None, derandomize=True)
def test_any_mixture_of_lengths(family_engine, lengths):
    rows = packed.rows_of(lengths)
    alone = [_unit(family_engine, packed.pack([row]))[0] for row in rows]
    packed.close(_unit(family_engine, packed.pack(rows)), np.stack(alone), SAME)


def test_states_and_vectors_of_one_run_are_those_of_separate_runs(family):
    engine, batch = packed.load(family), packed.pack(packed.rows_of((5, 1, 30)))
    dense, states = packed.run(engine, batch, "dense", "states")
    packed.close(dense, packed.dense(engine, batch), 0)
    packed.close(states, np.concatenate(packed.states(engine, batch)), 0)


def test_inputs_are_left_alone(family):
    batch = packed.pack(packed.rows_of((5, 1, 30)))
    given = {name: value for name, value in vars(batch).items() if value is not None}
    fields = {name: np.copy(value) for name, value in given.items()}
    packed.dense(packed.load(family), batch)
    for name, value in fields.items():
        np.testing.assert_array_equal(getattr(batch, name), value)
        getattr(batch, name).setflags(write=False)
    packed.dense(packed.load(family), batch)  # and need not be writable


def test_no_texts_give_no_vectors(family):
    none = np.zeros(0, dtype=np.int32)
    batch = PackedBatch(none, np.zeros(1, dtype=np.int32), none, none)
    engine = packed.load(family)
    wanted = packed.dense(engine, packed.pack(packed.rows_of((3,)))).shape[1]
    assert packed.dense(engine, batch).shape == (0, wanted)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_close(family, precision):
    batch = packed.pack(packed.rows_of(LENGTHS))
    exact = _unit(packed.load(family), batch)
    engine = packed.load(family, precision=precision)
    found = _unit(engine, batch)
    assert engine.precision == precision
    assert found.dtype == np.float32
    assert (exact * found).sum(axis=1).min() > 0.99
    assert not np.array_equal(exact, found)


@pytest.mark.parametrize("own_family", FAMILIES, indirect=True)
def test_shards_and_pickles_are_the_single_file(own_family):
    batch = packed.pack(packed.rows_of((5, 1, 30)))
    single = packed.dense(packed.load(own_family), batch)
    tensors = checkpoints.tensors_of(own_family)
    checkpoints.shard(own_family, count=4)
    assert len(list(own_family.glob("*.safetensors"))) == 4
    packed.close(packed.dense(packed.load(own_family), batch), single, 0)
    checkpoints.unshard(own_family, tensors)
    checkpoints.to_pickle(own_family)
    packed.close(packed.dense(packed.load(own_family), batch), single, 0)
