"""Promises of the CPU engine: the same bits in any company, bad input, threads, interruption."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte import checkpoint
from opengte.arch.plan import PoolingKind, Rope
from opengte.engine import native, native_extension, native_weights
from opengte.errors import EngineError, InputError
from opengte.types import Output, PackedBatch
from opengte.weights import WeightChunk
from tests.parity.families import FAMILIES
from tests.support.native_plans import (
    PLANS,
    SCORES,
    VOCABULARY,
    batch,
    bert,
    decoder,
    rope_only,
    weights,
)

if not native_extension.available():
    pytest.skip("the compiled CPU engine is not installed", allow_module_level=True)

Array = npt.NDArray[np.float32]
DENSE: frozenset[Output] = frozenset({"dense"})
LENGTHS = (40, 1, 300, 13, 96, 2, 520, 97, 33)


def build(name: str, **options: Any) -> native.NativeEngine:
    return native.build_native_engine(PLANS[name], weights(PLANS[name]), **options)


def dense(engine: native.NativeEngine, packed: PackedBatch) -> Array:
    found = engine.run(packed, DENSE).dense
    assert found is not None
    return found


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("precision", native.PRECISIONS)
@pytest.mark.parametrize("name", ["bert", "heads of 80", "decoder", "modernbert", "latent"])
def test_the_same_text_gives_the_same_bits(
    name: str, precision: native_weights.Precision, isa: str
) -> None:
    packed = batch(LENGTHS)
    one = build(name, precision=precision, isa=isa, threads=1)
    three = build(name, precision=precision, isa=isa, threads=3, micro_tokens=64)
    expected = dense(one, packed)
    np.testing.assert_array_equal(dense(three, packed), expected)
    order = np.random.default_rng(0).permutation(len(LENGTHS))
    np.testing.assert_array_equal(dense(three, packed.select(order)), expected[order])
    for i in range(len(LENGTHS)):
        alone = packed.select(np.array([i]))
        np.testing.assert_array_equal(dense(one, alone)[0], expected[i])
        np.testing.assert_array_equal(dense(three, alone)[0], expected[i])


@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_long_sequences_give_the_same_bits_on_any_threads(
    precision: native_weights.Precision,
) -> None:
    plan = decoder(causal=False)
    packed = batch((3000, 5, 1025))
    engines = (
        native.build_native_engine(plan, weights(plan), precision=precision, threads=n)
        for n in (1, 2, 4)
    )
    first, *others = (dense(engine, packed) for engine in engines)
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_heads_that_are_packed_some_at_a_time_give_the_same_bits(
    precision: native_weights.Precision,
) -> None:
    plan = rope_only(bert(512, 4, layers=1), Rope(10000.0))
    packed = batch((5000,))  # 2.6 to 10 MB of keys and values a head, 8 MiB at a time
    one, two = (
        native.build_native_engine(plan, weights(plan), precision=precision, threads=n)
        for n in (1, 2)
    )
    np.testing.assert_array_equal(dense(two, packed), dense(one, packed))


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("precision", native.PRECISIONS)
@pytest.mark.parametrize("pooling", ["cls", "last"])
@pytest.mark.parametrize("name", ["bert", "decoder", "modernbert"])
def test_a_last_layer_cut_to_one_state_changes_no_bit(
    name: str, pooling: PoolingKind, precision: native_weights.Precision, isa: str
) -> None:
    plan = replace(PLANS[name], pooling=pooling)
    longest = () if name == "bert" else (1100,)  # above 1,024 tokens: shared by threads
    packed = batch((*LENGTHS, *longest))
    for threads in (1, 3):
        engine = native.build_native_engine(
            plan, weights(plan), precision=precision, isa=isa, threads=threads
        )
        whole = engine.run(packed, frozenset({"dense", "states"})).dense
        assert whole is not None
        np.testing.assert_array_equal(dense(engine, packed), whole)


@settings(max_examples=60, deadline=None)
@given(
    starts=st.lists(st.integers(-3, 40), min_size=0, max_size=6),
    tokens=st.integers(0, 40),
    bad=st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)),
    skip=st.integers(-2, 12),
)
def test_any_batch_gives_a_result_or_an_error(
    starts: list[int], tokens: int, bad: int | None, skip: int
) -> None:
    ids = np.arange(tokens, dtype=np.int32) % VOCABULARY
    if bad is not None and tokens:
        ids[tokens // 2] = bad
    cu_seqlens = np.array(starts, dtype=np.int32)
    pool_from = np.full(max(0, len(starts) - 1), skip, dtype=np.int32)
    packed = PackedBatch(ids, cu_seqlens, np.zeros_like(ids), pool_from)
    lengths = np.diff(cu_seqlens)
    valid = (
        len(starts) > 0
        and starts[0] == 0
        and starts[-1] == tokens
        and bool((lengths > 0).all())
        and bool(((ids >= 0) & (ids < VOCABULARY)).all())
        and (len(lengths) == 0 or (skip >= 0 and bool((lengths > skip).all())))
    )
    if valid:
        assert np.isfinite(dense(ENGINE, packed)).all()
    else:
        with pytest.raises(InputError):
            ENGINE.run(packed, DENSE)


ENGINE = build("bert", threads=2)


def test_bad_batches_are_named() -> None:
    good = batch((4, 5))
    long = batch((599,))
    bad_types = replace(good, type_ids=np.full(9, 2, dtype=np.int32))
    for packed, message in (
        (replace(good, ids=good.ids + VOCABULARY), r"ids\[0\] is \d+, expected 0 to 96"),
        (replace(good, cu_seqlens=np.array([0, 4, 4], np.int32)), "sequence 1 has 0 tokens"),
        (replace(good, cu_seqlens=np.array([0, 4, 99], np.int32)), "beyond the 9 ids"),
        (replace(good, ids=good.ids.astype(np.float32)), "ids is float32"),
        (replace(good, ids=good.ids + np.int64(2**40)), "expected int32"),
        (replace(good, pool_from=good.pool_from[:1]), "do not belong together"),
        (bad_types, r"type_ids\[0\] is 2"),
        (long, "sequence 0 has 599 tokens, the model takes 598"),
    ):
        with pytest.raises(InputError, match=message):
            ENGINE.run(packed, DENSE)


def test_an_empty_batch_gives_nothing() -> None:
    found = ENGINE.run(batch(()), frozenset({"dense", "states"}))
    assert found.dense is not None and found.dense.shape == (0, 48)
    assert found.states is not None and found.states.shape == (0, 48)


def test_what_the_model_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match="no sparse head"):
        ENGINE.run(batch((3,)), frozenset({"sparse"}))
    with pytest.raises(InputError, match="no score head"):
        ENGINE.score(batch((3,)))
    plan = SCORES["classifier"]
    with pytest.raises(InputError, match="no pooling"):
        native.build_native_engine(plan, weights(plan)).run(batch((3,)), DENSE)


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("precision", native.PRECISIONS)
@pytest.mark.parametrize("slot", ["embedding.word", "layers.0.qkv.bias", "layers.1.up.weight"])
def test_weights_that_are_not_finite(
    slot: str, precision: native_weights.Precision, isa: str
) -> None:
    def damaged(chunk: WeightChunk) -> WeightChunk:
        values = chunk.values.copy()
        values.reshape(-1)[:] = np.nan
        return replace(chunk, values=values) if chunk.slot == slot else chunk

    plan = PLANS["bert"]
    chunks = (damaged(chunk) for chunk in weights(plan))
    engine = native.build_native_engine(plan, chunks, precision=precision, isa=isa)
    try:
        found = dense(engine, batch(LENGTHS))
    except EngineError as error:
        assert "not finite" in str(error)
    else:  # int8 has no NaN: the matrix is lost, the rest is computed
        assert precision == "int8" and np.isfinite(found).all()


def test_python_threads_share_an_engine() -> None:
    packed = batch(LENGTHS)
    expected = dense(ENGINE, packed)
    found: list[Array] = []

    def work() -> None:
        for _ in range(5):
            found.append(dense(ENGINE, packed))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for result in found:
        np.testing.assert_array_equal(result, expected)


def test_no_memory_is_taken_in_the_steady_state() -> None:
    engine = build("bert", threads=2)
    packed = batch(LENGTHS)
    dense(engine, packed)
    before = engine.workspace_bytes
    for seed in range(5):
        dense(engine, batch(LENGTHS, seed=seed))
    assert engine.workspace_bytes == before > 0


SLOW = """
import signal, sys, time
from tests.support.native_plans import batch, bert, rope_only, weights
from opengte.arch.plan import Rope
from opengte.engine import native
plan = rope_only(bert(256, 4, layers=60), Rope(10000.0))
engine = native.build_native_engine(plan, weights(plan), threads=2)
engine.run(batch((8,)), frozenset({"dense"}))
sent = []
def interrupt(number, frame):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.3)
started = time.monotonic()
try:
    engine.run(batch(LENGTHS), frozenset({"dense"}))
except KeyboardInterrupt:
    print(time.monotonic() - started - 0.3)
else:
    print("finished after", time.monotonic() - started)
"""


@pytest.mark.parametrize("lengths", ["(6000,)", "(24000,)", "(500,) * 40"])
def test_an_interrupt_stops_the_work(lengths: str) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join(filter(None, [str(root), *sys.path]))
    done = subprocess.run(
        [sys.executable, "-c", SLOW.replace("LENGTHS", lengths)],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0  # 0.1 on an idle machine


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_alone() -> None:
    packed = batch(LENGTHS)
    expected = dense(ENGINE, packed)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(dense(ENGINE, packed), expected) else 1)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_the_level_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    for level in native_extension.isa_levels():
        monkeypatch.setenv("OPENGTE_ISA", level)
        assert build("bert").isa == level
    monkeypatch.setenv("OPENGTE_ISA", "abacus")
    with pytest.raises(EngineError, match="OPENGTE_ISA is 'abacus', expected one of"):
        native_extension.choose_isa()


def test_unknown_precisions_say_what_was_expected(tmp_path: Path) -> None:
    FAMILIES["bert"](tmp_path)
    with pytest.raises(EngineError, match="precision is 'fp16', .*expected auto, fp32, bf16, int8"):
        native.load_native_engine(checkpoint.read_checkpoint(tmp_path), precision="fp16")


def test_a_control_group_limits_the_threads(tmp_path: Path) -> None:
    assert native.cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert native.cpu_quota(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert native.cpu_quota(tmp_path) is None
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert native.cpu_quota(tmp_path) is None
    assert native.available_threads() >= 1


def test_a_wrong_plan_is_refused() -> None:
    plan = bert()
    layout = native_weights.WeightLayout.of(plan, "fp32", native_extension.choose_isa(), "fp32")
    prepared = native_weights.PreparedWeights.allocate(layout)
    with pytest.raises(EngineError, match="cannot run this model"):
        native.NativeEngine(bert(96, 3), prepared, threads=1)
    with pytest.raises(EngineError, match="threads must be at least 1"):
        native.NativeEngine(plan, prepared, threads=0)


def test_smoothing_helps_where_ranges_differ() -> None:
    """A norm that gives its outputs very different ranges costs int8 little: the weights say so."""
    plan = PLANS["bert"]

    def skewed(chunk: WeightChunk) -> WeightChunk:
        if not chunk.slot.endswith("norm.weight") and not chunk.slot.endswith("norm.bias"):
            return chunk
        spread = np.exp(np.random.default_rng(3).uniform(-3, 3, len(chunk.values)))
        return replace(chunk, values=(chunk.values * spread).astype(np.float32))

    def evened(chunk: WeightChunk) -> WeightChunk:
        spread = np.exp(np.random.default_rng(3).uniform(-3, 3, plan.width))
        if chunk.slot.endswith(("qkv.weight", "up.weight")):
            return replace(chunk, values=(chunk.values / spread).astype(np.float32))
        return chunk

    chunks = [evened(skewed(chunk)) for chunk in weights(plan)]
    packed = batch(LENGTHS)
    exact = dense(native.build_native_engine(plan, chunks), packed)
    eight = dense(native.build_native_engine(plan, chunks, precision="int8"), packed)
    norms = np.linalg.norm(exact, axis=1) * np.linalg.norm(eight, axis=1)
    assert ((exact * eight).sum(axis=1) / norms).min() > 0.999
