"""Plans keep their repr: a model's fingerprint hashes it, and an index holds the fingerprint."""

import hashlib
import warnings

import pytest

from opengte.arch import plan_of
from opengte.checkpoint import read_checkpoint
from tests.support.published_configs import CONFIGS

# of the repr of each plan, as the first version had it that wrote indexes with these fingerprints
DIGESTS = {
    "Alibaba-NLP/gte-Qwen1.5-7B-instruct": "d166241c558dc54c",
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": "542c70846080d666",
    "Alibaba-NLP/gte-Qwen2-7B-instruct": "3b0c6bce0d35e7f1",
    "Alibaba-NLP/gte-base-en-v1.5": "2565cfb9ae73c2ee",
    "Alibaba-NLP/gte-large-en-v1.5": "d68ec0560485f1ce",
    "Alibaba-NLP/gte-modernbert-base": "68cb3491c45d158f",
    "Alibaba-NLP/gte-multilingual-base": "444ae2cb0df47f90",
    "Alibaba-NLP/gte-multilingual-reranker-base": "22275775b5343932",
    "Alibaba-NLP/gte-reranker-modernbert-base": "b7d43cdfca724a78",
    "BAAI/bge-m3": "c05d68347a33bd78",
    "BAAI/bge-reranker-base": "bc766ed05671ba6e",
    "Qwen/Qwen3-Embedding-0.6B": "de1d03b9a3fd6c7a",
    "Qwen/Qwen3-Embedding-4B": "5cf97fa3675500ec",
    "Qwen/Qwen3-Embedding-8B": "8e22b020220aef1d",
    "intfloat/e5-mistral-7b-instruct": "3fb5c011cddae1aa",
    "nvidia/NV-Embed-v1": "40bdf249c3554872",
    "sentence-transformers/all-MiniLM-L6-v2": "0ef72613981c3d00",
    "thenlper/gte-base": "f5432854398ab423",
    "thenlper/gte-base-zh": "6986741bb87af8df",
    "thenlper/gte-large": "46fd0916be12cdac",
    "thenlper/gte-large-zh": "5c2c4145e5d63e57",
    "thenlper/gte-small": "3dc4c04514e5f309",
    "thenlper/gte-small-zh": "7c96745266e3f442",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_the_repr_of_a_plan_stays(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = repr(plan_of(CONFIGS[name]))
    assert hashlib.sha256(shown.encode()).hexdigest()[:16] == DIGESTS[name]


def test_the_fingerprint_of_the_default_model_stays() -> None:
    assert read_checkpoint("minilm").fingerprint() == "ee75f98ab00225497b7cdbba8c84f404"
