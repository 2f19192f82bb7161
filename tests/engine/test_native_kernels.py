"""Every kernel of the CPU engine against plain arithmetic, at every instruction-set level."""

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.engine import native, native_extension

if not native_extension.available():
    pytest.skip("the compiled CPU engine is not installed", allow_module_level=True)

_native: Any = importlib.import_module("opengte._native")

Array = npt.NDArray[np.float64]
Matrix = npt.NDArray[np.float32]

LEVELS = native_extension.isa_levels()
BF16_LEVELS = ("amx", "avx512")  # with bfloat16 dot products
ACTIVATIONS = ("identity", "gelu", "gelu_tanh", "silu", "relu", "tanh")
quick = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 130)
seeds = st.integers(0, 2**31)


def random(seed: int, *shape: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def erf(x: Array) -> Array:
    """The series of the error function, far beyond single precision on the arguments used here."""
    term, total = x.copy(), x.copy()
    for n in range(1, 150):
        term = -term * x * x / n
        total += term / (2 * n + 1)
    return np.where(np.abs(x) > 4, np.sign(x), total * 2 / np.sqrt(np.pi))


def activate(x: Array, kind: str) -> Array:
    result: Array = x
    if kind == "gelu":
        result = x * 0.5 * (1 + erf(x / np.sqrt(2)))
    if kind == "gelu_tanh":
        result = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    if kind == "silu":
        result = x / (1 + np.exp(-x))
    if kind == "relu":
        result = np.maximum(x, 0)
    if kind == "tanh":
        result = np.tanh(x)
    return result


def bf16(x: npt.NDArray[Any]) -> Array:
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    kept = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return kept.view(np.float32).astype(np.float64)


def as_multiplied(x: Matrix, w: Matrix, precision: str, level: str) -> tuple[Array, Array]:
    """The operands after the rounding that a precision brings, exactly."""
    if precision == "bf16":
        # only the level with bfloat16 dot products rounds activations
        return (bf16(x) if level in BF16_LEVELS else x.astype(np.float64)), bf16(w)
    if precision == "int8":
        top = np.abs(w).max(axis=1, keepdims=True)
        scale = np.where(top > 0, top / np.float32(127), 1).astype(np.float64)
        factor = np.where(top > 0, np.float32(127) / np.where(top > 0, top, 1), 0)
        low = x.min(axis=1, keepdims=True)
        span = x.max(axis=1, keepdims=True) - low
        steps = np.where(span > 0, np.float32(255) / np.where(span > 0, span, 1), 0)
        q = np.rint(np.clip((x - low) * steps, 0, 255)).astype(np.float64)
        back = q * (span * np.float32(1 / 255)).astype(np.float64) + low
        return back, np.rint(w * factor).astype(np.float64) * scale
    return x.astype(np.float64), w.astype(np.float64)


def multiply(level: str, precision: str, x: Matrix, w: Matrix, bias: Matrix, **how: Any) -> Matrix:
    how = {"activation": "identity", "gated": False, "exact": True} | how
    y = np.full((len(x), len(w) // (2 if how["gated"] else 1)), np.nan, dtype=np.float32)
    _native.probe.multiply(level, precision, x=x, w=w, bias=bias, y=y, **how)
    return y


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", native.PRECISIONS)
@quick
@given(rows=st.integers(1, 40), outputs=sizes, inputs=sizes, seed=seeds)
def test_products(
    level: str, precision: str, rows: int, outputs: int, inputs: int, seed: int
) -> None:
    x, w = random(seed, rows, inputs), random(seed + 1, outputs, inputs)
    bias = random(seed, outputs)
    a, b = as_multiplied(x, w, precision, level)
    scale = np.abs(a) @ np.abs(b).T + 1
    error = np.abs(multiply(level, precision, x, w, bias) - (a @ b.T + bias)) / scale
    assert error.max() < 2e-6


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_a_row_is_the_same_in_any_company(level: str, precision: str) -> None:
    x, w, bias = random(1, 61, 96), random(2, 71, 96), random(3, 71)
    together = multiply(level, precision, x, w, bias, activation="gelu")
    for first in range(0, 61, 7):
        for count in (1, 2, 5, 11):
            part = x[first : first + count]
            alone = multiply(level, precision, part, w, bias, activation="gelu")
            np.testing.assert_array_equal(alone, together[first : first + count])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("gated", [False, True])
def test_activations(level: str, kind: str, gated: bool) -> None:
    # one input, so that the product is the argument itself
    x = np.linspace(-9, 9, 501, dtype=np.float32)[:, None]
    w = np.ones((6, 1), dtype=np.float32)
    bias = np.linspace(-1, 1, 6, dtype=np.float32)
    for exact, tolerance in ((True, 1e-6), (False, 5e-4)):
        y = multiply(level, "fp32", x, w, bias, activation=kind, gated=gated, exact=exact)
        argument = (x + bias).astype(np.float64)
        if gated:
            wanted = activate(argument[:, :3], kind) * argument[:, 3:]
        else:
            wanted = activate(argument, kind)
        np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=tolerance * (10 if gated else 1))


@pytest.mark.parametrize("level", LEVELS)
def test_activations_far_out(level: str) -> None:
    x = np.array([[-1e30], [-300.0], [300.0], [1e30]], dtype=np.float32)
    w, bias = np.ones((1, 1), dtype=np.float32), np.zeros(1, dtype=np.float32)
    for kind in ("gelu", "silu", "tanh"):
        for exact in (True, False):
            y = multiply(level, "fp32", x, w, bias, activation=kind, exact=exact)
            top = np.ones(2) if kind == "tanh" else x[2:, 0]
            np.testing.assert_allclose(y[2:, 0], top, rtol=1e-4)
            assert np.isfinite(y).all()


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("rms", [False, True])
@quick
@given(width=st.integers(2, 200), seed=seeds)
def test_norms(level: str, rms: bool, width: int, seed: int) -> None:
    x = random(seed, 3, width) + 0.5
    weight, bias = random(seed + 1, width), random(seed + 2, width)
    for shift in (bias, bias[:0]):
        y = np.empty_like(x)
        _native.probe.norm(level, rms, 1e-6, x, weight, shift, y)
        centred = x.astype(np.float64)
        if not rms:
            centred = centred - centred.mean(axis=1, keepdims=True)
        root = np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-6)
        wanted = centred / root * weight + (shift if shift.size else 0)
        np.testing.assert_allclose(y, wanted, atol=2e-5, rtol=1e-4)


def attention(q: Array, k: Array, v: Array, causal: bool, window: int) -> Array:
    apart = np.arange(len(q))[:, None] - np.arange(len(q))
    seen = np.ones_like(apart, dtype=bool)
    if causal:
        seen &= apart >= 0
    if window >= 0:
        seen &= np.abs(apart) <= window
    scores = np.where(seen, q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    result: Array = weights @ v / weights.sum(axis=1, keepdims=True)
    return result


# What rounding to the precision costs, for states of unit variance. In heads narrower than those of
# any model, one value of three standard deviations makes most of a score, and its rounding too.
ATTENTION = {"fp32": 5e-6, "bf16": 0.03, "int8": 0.08}
ATTENTION_NARROW = 2.5  # times that in heads of fewer than 8 values
ATTENTION_MEAN = 0.01  # root of the mean squared error, at any width


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", native.PRECISIONS)
@settings(max_examples=15, deadline=None)
@given(
    length=st.one_of(st.integers(1, 40), st.integers(230, 300), st.integers(500, 600)),
    half=st.integers(1, 70),
    causal=st.booleans(),
    window=st.sampled_from([-1, 0, 1, 5, 64, 300]),
    seed=seeds,
)
def test_attention(
    level: str, precision: str, length: int, half: int, causal: bool, window: int, seed: int
) -> None:
    q, k, v = (random(seed + i, length, 2 * half) for i in range(3))
    y = np.full_like(q, np.nan)
    _native.probe.attend(level, precision, causal, window, q, k, v, y)
    rounded = precision != "fp32" and level in BF16_LEVELS
    a, b, c = ((bf16(x) if rounded else x.astype(np.float64)) for x in (q, k, v))
    wanted = attention(a, b, c, causal, window)
    atol = ATTENTION[precision] * (ATTENTION_NARROW if half < 4 else 1) if rounded else 5e-6
    np.testing.assert_allclose(y, wanted, atol=atol)
    assert np.sqrt(np.mean((y - wanted) ** 2)) < ATTENTION_MEAN


@pytest.mark.parametrize("level", LEVELS)
def test_large_scores_do_not_overflow(level: str) -> None:
    q, k, v = (random(i, 300, 32) * (8 if i < 2 else 1) for i in range(3))
    y = np.empty_like(q)
    _native.probe.attend(level, "fp32", False, -1, q, k, v, y)
    a, b, c = (x.astype(np.float64) for x in (q, k, v))
    wanted = attention(a, b, c, causal=False, window=-1)
    np.testing.assert_allclose(y, wanted, atol=2e-3)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", native.PRECISIONS)
def test_packing_takes_rows_in_any_pieces(level: str, precision: str) -> None:
    w, bias = random(5, 37, 19), random(6, 37)
    packer = _native.Packer(level, precision, False, 37, 19)
    blocks = []
    for cuts in ([0, 37], [0, 1, 20, 37]):
        block = np.zeros(packer.bytes, dtype=np.uint8)
        for first, last in zip(cuts, cuts[1:], strict=False):
            packer.weights(w[first:last].reshape(-1).view(np.uint8), "fp32", first, block)
        packer.bias(bias.view(np.uint8), "fp32", 0, block)
        blocks.append(block)
    np.testing.assert_array_equal(blocks[0], blocks[1])
    with pytest.raises(ValueError, match="rows do not fit"):
        packer.weights(w.reshape(-1).view(np.uint8), "fp32", 1, blocks[0])
    with pytest.raises(ValueError, match="wrong size"):
        packer.bias(bias.view(np.uint8), "fp32", 0, blocks[0][:-1])


@pytest.mark.parametrize("level", LEVELS)
def test_smoothing_is_checked(level: str) -> None:
    one = np.ones(19, dtype=np.float32)
    packer = _native.Packer(level, "int8", False, 37, 19)
    block = np.zeros(packer.bytes, dtype=np.uint8)
    with pytest.raises(ValueError, match="spread must be positive"):
        packer.smooth(one, 0 * one, block)
    with pytest.raises(ValueError, match="one value an input"):
        packer.smooth(one[:-1], one, block)
    plain = _native.Packer(level, "fp32", False, 37, 19)
    with pytest.raises(ValueError, match="smoothing needs int8"):
        plain.smooth(one, one, np.zeros(plain.bytes, dtype=np.uint8))
