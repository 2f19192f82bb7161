"""The CPU engine against the PyTorch reference, mechanism by mechanism, at every level."""

from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest

from opengte.arch.plan import Plan
from opengte.engine import native, native_extension, native_weights
from opengte.types import Output, PackedBatch
from tests.support.native_plans import PLANS, SCORES, batch, bert, weights

if not native_extension.available():
    pytest.skip("the compiled CPU engine is not installed", allow_module_level=True)
torch = pytest.importorskip("torch")

from opengte.reference.layers import to_device
from opengte.reference.load import load_reference_model

Array = npt.NDArray[np.float32]

LENGTHS = (1, 2, 3, 33, 96, 97, 257, 300, 8)
# cosine that a precision must keep on these small random networks
COSINES: dict[native_weights.Precision, float] = {"fp32": 1 - 1e-6, "bf16": 0.9995, "int8": 0.99}


def reference(plan: Plan, packed: PackedBatch) -> dict[str, Array]:
    model = load_reference_model(plan, weights(plan), torch.float32, "cpu")
    with torch.inference_mode():
        moved = to_device(packed, torch.device("cpu"))
        states = model(moved)
        found = {"states": states}
        if plan.pooling is not None:
            found["dense"] = model.pool(states, moved)
        if plan.sparse:
            found["sparse"] = model.sparse_weights(states)
        if plan.token_width:
            found["tokens"] = model.token_vectors(states)
        if plan.score is not None:
            found["score"] = model.scores(states, moved)
    return {name: np.asarray(value.numpy()) for name, value in found.items()}


@cache
def wanted(group: str, name: str) -> dict[str, Array]:
    return reference({"plans": PLANS, "scores": SCORES}[group][name], batch(LENGTHS, skip=2))


def cosines(a: Array, b: Array) -> Array:
    found: Array = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    return found


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("name", PLANS)
def test_fp32(name: str, isa: str) -> None:
    engine = native.build_native_engine(PLANS[name], weights(PLANS[name]), isa=isa, threads=2)
    found = engine.run(batch(LENGTHS, skip=2), frozenset({"dense", "states"}))
    assert found.states is not None and found.dense is not None
    np.testing.assert_allclose(found.states, wanted("plans", name)["states"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(found.dense, wanted("plans", name)["dense"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_padding_token_in_a_text_is_not_counted(threads: int) -> None:
    plan = bert()
    packed = batch(LENGTHS)
    ids = np.where(packed.ids == 1, 2, packed.ids)
    plain = reference(plan, replace(packed, ids=ids))["states"]
    for places in ([0], [3, 4, 5, 40], [len(ids) - 1], range(130, 230)):
        ids[places] = 1
    packed = replace(packed, ids=ids)
    engine = native.build_native_engine(plan, weights(plan), threads=threads, micro_tokens=64)
    found, expected = engine.run(packed, frozenset({"states"})).states, reference(plan, packed)
    assert found is not None and not np.allclose(expected["states"], plain, atol=1e-2)
    np.testing.assert_allclose(found, expected["states"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions(name: str, precision: native_weights.Precision, isa: str) -> None:
    engine = native.build_native_engine(
        PLANS[name], weights(PLANS[name]), precision=precision, isa=isa
    )
    found = engine.run(batch(LENGTHS, skip=2), frozenset({"dense"})).dense
    assert found is not None
    assert cosines(found, wanted("plans", name)["dense"]).min() > COSINES[precision]


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("precision", native.PRECISIONS)
@pytest.mark.parametrize("name", SCORES)
def test_scores(name: str, precision: native_weights.Precision, isa: str) -> None:
    engine = native.build_native_engine(
        SCORES[name], weights(SCORES[name]), precision=precision, isa=isa
    )
    found = engine.score(batch(LENGTHS, skip=2)).score
    assert found is not None
    tolerance = {"fp32": 1e-5, "bf16": 0.05, "int8": 0.2}[precision]
    np.testing.assert_allclose(found, wanted("scores", name)["score"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("isa", native_extension.isa_levels())
@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_heads(precision: native_weights.Precision, isa: str) -> None:
    plan = bert(sparse=True, token_width=21)
    expected = reference(plan, batch(LENGTHS))
    engine = native.build_native_engine(
        plan, weights(plan), precision=precision, isa=isa, threads=2
    )
    found = engine.run(batch(LENGTHS), frozenset({"dense", "sparse", "tokens", "states"}))
    tolerance = {"fp32": 1e-5, "bf16": 0.1, "int8": 0.4}[precision]
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(found, name), value, atol=tolerance, rtol=0)


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F64"])
def test_stored_dtypes(dtype: str) -> None:
    """Weights of any stored dtype give what their values in fp32 give."""
    from opengte.weights import WeightChunk

    def stored(chunk: WeightChunk) -> WeightChunk:
        values = chunk.values
        if dtype == "BF16":
            kept = (values.view(np.uint32) >> 16).astype(np.uint16)
            return WeightChunk(chunk.slot, 0, kept, dtype)
        return WeightChunk(chunk.slot, 0, values.astype({"F16": "<f2", "F64": "<f8"}[dtype]), dtype)

    plan = PLANS["bert"]
    chunks = [stored(chunk) for chunk in weights(plan)]
    widened = [WeightChunk(c.slot, 0, c.as_float32(), "F32") for c in chunks]
    word = {"F16": "fp16", "BF16": "bf16", "F64": "fp64"}[dtype]
    found = native.build_native_engine(plan, chunks, word_dtype=word)
    plain = native.build_native_engine(plan, widened)
    want: frozenset[Output] = frozenset({"dense"})
    packed = batch(LENGTHS)
    np.testing.assert_array_equal(found.run(packed, want).dense, plain.run(packed, want).dense)
