"""MaxSim by the compiled kernel, at every instruction set, against NumPy."""

import numpy as np
import pytest

from opengte.engine import maxsim as kernel
from opengte.engine.maxsim import TokenVectors, maxsim
from opengte.engine.native_extension import available, isa_levels
from opengte.errors import InputError

LEVELS = isa_levels() if available() else ()
pytestmark = pytest.mark.skipif(not LEVELS, reason="the compiled engine is not installed")


def vectors(rng, count, width, spread=1.0):
    rows = rng.standard_normal((count, width)).astype(np.float32)
    return rows * rng.uniform(1 / spread, spread, (count, 1)).astype(np.float32)


def oracle(query, documents):
    """Return MaxSim from the vectors as they are stored; whole numbers are exact for int8."""
    own = TokenVectors.of([query], documents.stored)
    rows, scales = own.values, own.scales
    scores = []
    for first, last in zip(documents.starts, documents.starts[1:], strict=False):
        if documents.scales is None:
            products = own.floats().astype(np.float64) @ documents.floats()[first:last].T
            scores.append(products.max(axis=1).sum())
            continue
        whole = rows.astype(np.int64) @ documents.values[first:last].T.astype(np.int64)
        scaled = whole.astype(np.float32) * documents.scales[first:last]
        scores.append(sum(scaled.max(axis=1).astype(np.float64) * scales))
    return np.array(scores)


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("stored", ["fp32", "bf16", "int8"])
def test_random_shapes(isa, stored):
    rng = np.random.default_rng(5)
    for trial in range(40):
        width = int(rng.choice([1, 2, 3, 7, 16, 48, 96, 127, 128, 130, 513]))
        sizes = rng.integers(1, 40, int(rng.integers(1, 6)))
        query = vectors(rng, int(rng.choice([1, 2, 31, 32, 33, 70])), width, 3)
        documents = TokenVectors.of([vectors(rng, n, width, 3) for n in sizes], stored)
        found, expected = maxsim(query, documents, isa=isa), oracle(query, documents)
        if stored == "int8":
            np.testing.assert_array_equal(found, expected.astype(np.float32), f"trial {trial}")
        else:
            size = len(query) * width
            np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6 * size)


@pytest.mark.parametrize("isa", LEVELS)
def test_the_extremes_of_bytes(isa):
    """The largest products of a byte do not overflow, whatever their signs."""
    for query, document in ((127, 127), (127, -127), (-127, -127), (-127, 127)):
        rows = np.full((3, 512), document, np.int8)
        documents = TokenVectors(rows, np.array([0, 3]), np.ones(3, np.float32))
        found = maxsim(np.full((2, 512), query, np.float32), documents, isa=isa)
        assert found.tolist() == [2.0 * query * document * 512]


@pytest.mark.parametrize("stored", ["fp32", "bf16", "int8"])
def test_numpy_stands_in_for_the_kernel(monkeypatch, stored):
    rng = np.random.default_rng(6)
    documents = TokenVectors.of([vectors(rng, n, 24) for n in (1, 9, 30)], stored)
    query = vectors(rng, 8, 24)
    compiled = maxsim(query, documents)
    monkeypatch.setattr(kernel, "_has_native", lambda: False)
    np.testing.assert_allclose(maxsim(query, documents), compiled, rtol=1e-5)
    np.testing.assert_allclose(maxsim(query, documents, mean=True), compiled / 8, rtol=1e-5)


def test_int8_keeps_the_order_of_documents():
    rng = np.random.default_rng(7)
    documents = [vectors(rng, 20, 128) for _ in range(30)]
    query = vectors(rng, 12, 128)
    whole = maxsim(query, TokenVectors.of(documents))
    small = maxsim(query, TokenVectors.of(documents, "int8"))
    assert np.corrcoef(whole, small)[0, 1] > 0.999
    np.testing.assert_allclose(small, whole, rtol=0.02)


def test_bad_arguments_are_named():
    rows = np.ones((2, 4), np.float32)
    documents = TokenVectors.of([rows])
    with pytest.raises(InputError, match=r"shape \(2, 3\), expected \(at least 1, 4\)"):
        maxsim(rows[:, :3], documents)
    with pytest.raises(InputError, match=r"shape \(0, 4\)"):
        maxsim(rows[:0], documents)
    with pytest.raises(InputError, match=r"documents\[1\] has no token vectors"):
        TokenVectors.of([rows, rows[:0]])
