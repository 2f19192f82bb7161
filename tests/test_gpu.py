"""The torch engine and a training step on a GPU, against the CPU; skipped where there is none."""

import copy

import numpy as np
import pytest
import torch

from opengte.reference import layers
from opengte.reference.load import load_reference_model
from opengte.train.models.trainable import TrainableModel
from tests.reference.test_attention import attention, batch_of
from tests.support.native_plans import PLANS, SCORES, batch, weights

if not torch.cuda.is_available():
    pytest.skip("PyTorch finds no GPU here", allow_module_level=True)

GPU, CPU = torch.device("cuda"), torch.device("cpu")
LENGTHS = (1, 2, 3, 33, 96, 97, 257, 300, 8)
COSINES = {torch.float32: 1 - 1e-5, torch.bfloat16: 0.999, torch.float16: 0.9999}


def cosines(a, b):
    a, b = (x.detach().double().cpu().flatten(1) for x in (a, b))
    return torch.nn.functional.cosine_similarity(a, b, dim=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 0, 5, 64])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(3, 3, 32), (8, 2, 64), (6, 2, 128)])
def test_attention_and_its_gradient(dtype, causal, window, heads, kv_heads, head_dim):
    lengths = [300, 97, 97, 1, 20]
    plan = attention(heads, kv_heads, head_dim, causal=causal, window=window)
    packed, naive = (layers.to_device(batch_of(lengths), device) for device in (GPU, CPU))
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(sum(lengths), n, head_dim, generator=generator).to(GPU, dtype).requires_grad_()
        for n in (heads, kv_heads, kv_heads)
    )
    exact = [x.detach().double().cpu().requires_grad_() for x in (q, k, v)]
    outer = torch.randn(sum(lengths), heads, head_dim, generator=generator).to(GPU, dtype)
    found = layers.attend(q, k, v, packed, plan)
    found.backward(outer)
    wanted = _naive(*exact, naive, plan)
    wanted.backward(outer.double().cpu())
    torch.testing.assert_close(found.double().cpu(), wanted, atol=2e-2, rtol=2e-2)
    for x, y in zip((q, k, v), exact, strict=True):
        least = 2e-2 * float(y.grad.abs().max()) + 1e-4  # a window of none has no gradient of q
        torch.testing.assert_close(x.grad.double().cpu(), y.grad, atol=least, rtol=2e-2)


def _naive(q, k, v, packed, plan):
    """Do what `attend_naive` does with a gradient: it writes in place, one sequence at a time."""
    group = plan.heads // plan.kv_heads
    parts = []
    bounds = packed.cu_seqlens.tolist()
    for start, stop in zip(bounds, bounds[1:], strict=False):
        alone = layers.to_device(batch_of([stop - start]), CPU)
        heads = [
            layers.attend(
                q[start:stop, head : head + 1],
                k[start:stop, head // group : head // group + 1],
                v[start:stop, head // group : head // group + 1],
                alone,
                attention(1, 1, q.shape[-1], causal=plan.causal, window=plan.window),
            )
            for head in range(plan.heads)
        ]
        parts.append(torch.cat(heads, dim=1))
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", list(COSINES))
@pytest.mark.parametrize("name", PLANS)
def test_every_kind_of_network(name, dtype):
    plan = PLANS[name]
    packed = batch(LENGTHS, skip=2)
    exact = load_reference_model(plan, weights(plan), torch.float32, "cpu")
    model = load_reference_model(plan, weights(plan), dtype, "cuda")
    with torch.inference_mode():
        here, there = layers.to_device(packed, CPU), layers.to_device(packed, GPU)
        wanted = exact.pool(exact(here), here)
        found = model.pool(model(there), there)
    assert float(cosines(found, wanted).min()) > COSINES[dtype]


@pytest.mark.parametrize("name", SCORES)
def test_every_kind_of_reranker(name):
    plan = SCORES[name]
    packed = batch(LENGTHS, skip=2)
    exact = load_reference_model(plan, weights(plan), torch.float32, "cpu")
    model = load_reference_model(plan, weights(plan), torch.float32, "cuda")
    with torch.inference_mode():
        here, there = layers.to_device(packed, CPU), layers.to_device(packed, GPU)
        wanted, found = exact.scores(exact(here), here), model.scores(model(there), there)
    np.testing.assert_allclose(found.cpu().numpy(), wanted.numpy(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 1 - 1e-5), ("bf16", 0.99)])
def test_the_gradient_of_a_training_step(precision, least):
    plan = PLANS["bert"]
    packed = batch(LENGTHS)
    exact = TrainableModel(load_reference_model(plan, weights(plan), torch.float32, "cpu"))
    trainable = TrainableModel(copy.deepcopy(exact.model), precision=precision)
    trainable.materialise(GPU)
    outer = torch.randn(len(LENGTHS), plan.width, generator=torch.Generator().manual_seed(0))
    (exact(layers.to_device(packed, CPU))["dense"] * outer).sum().backward()
    (trainable(layers.to_device(packed, GPU))["dense"] * outer.to(GPU)).sum().backward()
    pairs = zip(exact.named_parameters(), trainable.parameters(), strict=True)
    for (name, wanted), found in pairs:
        if wanted.grad is not None and float(wanted.grad.abs().max()) > 1e-6:
            cosine = cosines(found.grad[None], wanted.grad[None])
            assert float(cosine) > least, name
