"""Published models give the published numbers (fact sheet, section 2.7). Needs the Hub."""

import os
import socket
from urllib.parse import urlsplit

import numpy as np
import pytest

from opengte import Encoder, Reranker

pytestmark = [pytest.mark.network, pytest.mark.slow]

CAPITAL = "what is the capital of China?"
SORT = "how to implement quick sort in python?"
ENGLISH = [CAPITAL, SORT, "Beijing", "sorting algorithms"]
MULTILINGUAL = [CAPITAL, SORT, "北京", "快排算法介绍"]


@pytest.fixture(autouse=True)
def hub():
    """Skip where the Hub does not answer."""
    address = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname, port), timeout=2).close()
    except OSError as error:
        pytest.skip(f"no connection to {address.hostname}:{port}: {error}")


# Cosines of the first text with each of the others.
@pytest.mark.parametrize(
    ("model", "texts", "cosines"),
    [
        ("Alibaba-NLP/gte-base-en-v1.5", ENGLISH, [0.34504931, 0.64039733, 0.19520043]),
        ("Alibaba-NLP/gte-large-en-v1.5", ENGLISH, [0.41863544, 0.77070764, 0.37029820]),
        ("Alibaba-NLP/gte-modernbert-base", ENGLISH, [0.42890739, 0.71309113, 0.33664555]),
        ("Alibaba-NLP/gte-multilingual-base", MULTILINGUAL, [0.30169964, 0.75038701, 0.32030844]),
    ],
)
def test_cosines(model, texts, cosines):
    vectors = Encoder.load(model, precision="fp32").encode(texts)
    assert vectors[0] @ vectors[1:].T == pytest.approx(cosines, abs=2e-4)


# The leading values of the raw CLS state of "What is Deep Learning?".
@pytest.mark.parametrize(
    ("model", "leading"),
    [
        (
            "Alibaba-NLP/gte-base-en-v1.5",
            [0.4415129, 0.61066884, 0.06948684, -0.59306145, 0.8815817, -0.10978132],
        ),
        (
            "Alibaba-NLP/gte-multilingual-base",
            [0.016608043, -0.5738141, -1.2647005, 0.1143095, 1.1395286, -1.6311411],
        ),
    ],
)
def test_first_state(model, leading):
    encoder = Encoder.load(model, precision="fp32")
    states = encoder.embed(["What is Deep Learning?"], outputs=("states",)).states
    assert states is not None
    assert states[0][0, : len(leading)] == pytest.approx(leading, abs=2e-3)


def test_qwen3_embedding():
    encoder = Encoder.load("Qwen/Qwen3-Embedding-0.6B", precision="fp32")
    queries = encoder.encode_query(["What is the capital of China?", "Explain gravity"])
    documents = encoder.encode_document(
        [
            "The capital of China is Beijing.",
            "Gravity is a force that attracts two bodies towards each other. It gives weight to "
            "physical objects and is responsible for the movement of planets around the sun.",
        ]
    )
    wanted = [[0.76455683, 0.14142509], [0.13549736, 0.59995496]]
    np.testing.assert_allclose(queries @ documents.T, wanted, atol=2e-3)


def test_multilingual_reranker():
    reranker = Reranker.load("Alibaba-NLP/gte-multilingual-reranker-base", precision="fp32")
    assert reranker.score("中国的首都在哪儿", ["北京"]) == pytest.approx([1.2315], abs=2e-3)
    assert reranker.score(CAPITAL, ["北京"]) == pytest.approx([0.5923], abs=2e-3)
    found = reranker.score(SORT, ["Introduction of quick sort"])
    assert found == pytest.approx([0.3041], abs=2e-3)
    found = reranker.score("What is Deep Learning?", ["Deep Learning is not..."])
    assert found == pytest.approx([-0.74173266], abs=2e-3)
