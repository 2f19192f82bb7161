"""Late interaction as sentence-transformers' MultiVectorEncoder computes it."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import (
    HierarchicalTokenPooling,
    MultiVectorMask,
)
from torch import nn
from transformers import BertConfig, BertModel

from opengte import Encoder, LateInteraction
from opengte.encoder import Reranker
from opengte.encoder.token_pooling import pool_tokens
from opengte.errors import (
    CapabilityError,
    CheckpointError,
    TruncationError,
    TruncationWarning,
    UnsupportedModelError,
)
from tests.support import checkpoints, late

TEXTS = ["the cat sat, on the mat.", "a dog! barks", "x", "the cat and the dog " * 12, "cat"]
ENGINES = ("native", "torch")
pytestmark = pytest.mark.filterwarnings("ignore::opengte.errors.TruncationWarning")


def both(folder: Path, engine: str) -> tuple[LateInteraction, MultiVectorEncoder]:
    return (
        LateInteraction.load(folder, engine=engine, precision="fp32"),
        MultiVectorEncoder(str(folder), device="cpu", local_files_only=True),
    )


def agree(ours: LateInteraction, theirs: MultiVectorEncoder, pooled: bool = False) -> None:
    """Compare the vectors of queries and documents, and the scores."""
    for role in ("query", "document"):
        found = getattr(ours, f"encode_{role}")(TEXTS)
        expected = getattr(theirs, f"encode_{role}")(TEXTS, convert_to_numpy=True)
        for one, other in zip(found, expected, strict=True):
            if pooled and role == "document":
                one, other = (rows[np.lexsort(rows.T)] for rows in (one, other))
            np.testing.assert_allclose(one, other, atol=2e-6)
    scores = theirs.similarity(theirs.encode_query(["the cat"]), theirs.encode_document(TEXTS))
    np.testing.assert_allclose(ours.score("the cat", TEXTS), scores[0].numpy(), rtol=1e-5)


PYLATE: dict[str, dict[str, Any]] = {
    "plain": {},
    "attended": {"attend_to_expansion_tokens": True},
    "not expanded": {"do_query_expansion": False, "query_length": 7},
    "no skip list": {"skiplist_words": []},
    "default skip list": {"skiplist_words": None},
    "two projections": {"widths": (32, 8)},
    "with biases": {"dense": {"bias": True}},
    "activated": {"dense": {"activation_function": "torch.nn.modules.activation.Tanh"}},
    "residual": {"widths": (32, 32), "dense": {"use_residual": True}},
    "markers as text": {"query_prefix": "query: ", "document_prefix": ""},
    "marker in the vocabulary": {"query_prefix": "[unused0] ", "document_prefix": "[MASK] "},
    "prompt after the marker": {"prompts": {"query": "find ", "document": "[D] title "}},
    "mean": {"similarity_fn_name": "meanmaxsim"},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", PYLATE)
def test_checkpoints_of_pylate(tmp_path, case, engine):
    agree(*both(late.pylate(tmp_path / "model", **PYLATE[case]), engine))


@pytest.mark.parametrize("engine", ENGINES)
def test_expansion_within_a_window(tmp_path, engine):
    agree(*both(late.pylate(tmp_path / "model", "modernbert"), engine))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "settings",
    [
        {"query_expansion": {"strategy": "min", "length": 9, "attend": False}},
        {"query_expansion": {"strategy": "min", "length": 9, "attend": True}, "query_length": 14},
        {"query_expansion": {"strategy": "fixed", "length": 9, "token": "the"}},
        {"query_length": 8, "document_length": 11},
        {},
    ],
)
def test_checkpoints_of_sentence_transformers(tmp_path, settings, engine):
    transformer = Transformer(str(late.body(tmp_path / "body")), **settings)
    modules = [
        transformer,
        Dense(late.WIDTH, 16, False, nn.Identity(), module_input_name="token_embeddings"),
        MultiVectorMask(["the", ","], skiplist_tasks=["query", "document"]),
        Normalize(module_input_name="token_embeddings"),
    ]
    prompts = {"query": "find ", "document": "text: "}
    model = MultiVectorEncoder(modules=modules, device="cpu", prompts=prompts)
    model.save(str(tmp_path / "model"), create_model_card=False)
    agree(*both(tmp_path / "model", engine))


@pytest.mark.parametrize("normalised", [True, False])
def test_pooling_in_the_checkpoint(tmp_path, normalised):
    modules = [
        Transformer(str(late.body(tmp_path / "body"))),
        MultiVectorMask(),
        Normalize(module_input_name="token_embeddings"),
        HierarchicalTokenPooling(2, normalize_embeddings=normalised),
    ]
    MultiVectorEncoder(modules=modules, device="cpu").save(
        str(tmp_path / "model"), create_model_card=False
    )
    agree(*both(tmp_path / "model", "native"), pooled=True)


@pytest.mark.parametrize("factor", [1.5, 2, 3, 4])
@pytest.mark.parametrize("tokens", [1, 2, 3, 17, 180])
def test_pooled_vectors(factor, tokens):
    vectors = np.random.default_rng(tokens).standard_normal((tokens, 12)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    (expected,) = HierarchicalTokenPooling(factor).pool([torch.from_numpy(vectors)])
    found = pool_tokens(vectors, factor)
    rows = expected.numpy()
    assert found.shape == rows.shape
    np.testing.assert_allclose(found[np.lexsort(found.T)], rows[np.lexsort(rows.T)], atol=1e-5)


def test_every_batch_gives_the_same_vectors(tmp_path):
    ours, _ = both(late.pylate(tmp_path / "model", "modernbert"), "native")
    together = ours.encode_query(TEXTS)
    alone = [ours.encode_query([text])[0] for text in TEXTS]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_query_beyond_the_length_is_counted(tmp_path):
    ours, _ = both(late.pylate(tmp_path / "model"), "native")
    with pytest.warns(TruncationWarning, match=r"role query lost tokens: the model takes 12"):
        ours.encode_query(TEXTS)
    assert ours.counters.truncated == 1
    result = ours.encoder.embed(TEXTS, role="query", outputs=("tokens",))
    assert [(one.index, one.kept) for one in result.truncated] == [(3, 12)]
    with pytest.raises(TruncationError, match="longer than max_length = 12 tokens"):
        ours.encoder.embed(TEXTS, role="query", outputs=("tokens",), truncation="error")


def test_what_the_model_cannot_give(tmp_path):
    folder = late.pylate(tmp_path / "model")
    encoder = Encoder.load(folder, precision="fp32")
    with pytest.raises(CapabilityError, match="LateInteraction scores with it"):
        encoder.encode(["a cat"])
    with pytest.raises(CheckpointError, match="LateInteraction.load, which scores"):
        Reranker.load(folder)
    checkpoints.add_modules(folder, "mean")
    with pytest.raises(CapabilityError, match="has no token vectors"):
        LateInteraction.load(folder, precision="fp32")


def test_bge_m3_scores_by_the_mean(tmp_path):
    config = BertConfig(**late.SIZES, num_hidden_layers=1)
    checkpoints.transformers_model(tmp_path, BertModel(config), pooling="cls")
    checkpoints.add_m3_heads(tmp_path, late.WIDTH, token_width=late.WIDTH)
    model = LateInteraction.load(tmp_path, engine="torch")
    query, documents = model.encode_query(["the cat"]), model.encode_document(TEXTS)
    expected = [(query[0] @ one.T).max(axis=1).mean() for one in documents]
    np.testing.assert_allclose(model.score("the cat", TEXTS), expected, rtol=1e-5)


def test_a_missing_projection_is_one_error(tmp_path):
    folder = late.pylate(tmp_path / "model")
    (folder / "1_Dense" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1_Dense.* no weights|1_Dense"):
        LateInteraction.load(folder)
    (folder / "1_Dense" / "config.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"lists the projection `1_Dense`.*does not exist.*Fetch"
    ):
        LateInteraction.load(folder)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"query_length": "many"}, r"query_length = 'many', expected a whole number"),
        ({"document_length": 0}, r"document_length = 0, expected a whole number"),
        ({"query_expansion": {"strategy": "wide"}}, r"expected an object with the strategy"),
        ({"query_length": 65}, r"expands queries to 65 tokens, but a token sees at most 64"),
    ],
)
def test_bad_settings_are_one_error(tmp_path, settings, told):
    folder = late.pylate(tmp_path / "model", **settings)
    with pytest.raises((CheckpointError, UnsupportedModelError), match=told):
        LateInteraction.load(folder)


def test_unknown_modules_are_refused(tmp_path):
    folder = late.pylate(tmp_path / "model")
    modules = checkpoints.read_json(folder / "modules.json")
    modules[1]["type"] = "custom.Dense"
    checkpoints.write_json(folder / "modules.json", modules)
    with pytest.raises(UnsupportedModelError, match="Code of its own is not run"):
        LateInteraction.load(folder)


def test_a_folder_that_says_nothing_warns_of_nothing(tmp_path):
    folder = late.pylate(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        card = LateInteraction.load(folder, precision="fp32").card
    assert card.outputs == ("tokens", "states")
    assert card.late == {
        "score": "sum",
        "query_length": 12,
        "document_length": 20,
        "expansion": 12,
        "skipped": 4,
    }
