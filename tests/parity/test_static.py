"""Static models against sentence-transformers' StaticEmbedding and model2vec, on both engines."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model2vec import StaticModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import LayerNorm, StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from opengte import Encoder
from opengte.arch.plan import UNLIMITED
from opengte.checkpoint import read_checkpoint
from opengte.engine import native_extension
from opengte.errors import CheckpointError, WeightsError
from opengte.types import Floats
from tests.support import checkpoints

WORDS = ["[PAD]", "[UNK]", "a", "cat", "dog", "sat", "on", "the", "mat", "##s", "!"]
TEXTS = ["a cat", "", "cats sat on the mat!", "xyzzy", "the dog " * 700, "A Cat xyzzy dog", "!"]
ENGINES = ["torch", *(["native"] if native_extension.available() else [])]


def _tokenizer() -> Tokenizer:
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return made


def _table(rows: int = len(WORDS), width: int = 20) -> Floats:
    made = np.random.default_rng(rows).normal(size=(rows, width))
    return made.astype(np.float32)


def _unit(vectors: Any) -> Floats:
    wide = np.asarray(vectors, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return (wide / np.maximum(lengths, 1e-12)).astype(np.float32)


def _check(folder: Path, wanted: Floats) -> None:
    for name in ENGINES:
        found = Encoder.load(folder, engine=name, precision="fp32").embed(TEXTS).dense
        assert found is not None
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5, err_msg=name)


def static_module(width: int) -> StaticEmbedding:
    """Return a StaticEmbedding of random vectors."""
    return StaticEmbedding(_tokenizer(), embedding_weights=_table(width=width))


def _sentence_model(folder: Path, *more: Any) -> SentenceTransformer:
    model = SentenceTransformer(modules=[static_module(20), *more], device="cpu")
    model.save(str(folder))
    return model


def test_static_embedding(tmp_path: Path) -> None:
    model = _sentence_model(tmp_path)
    _check(tmp_path, _unit(model.encode(TEXTS)))
    card = read_checkpoint(tmp_path).card
    assert (card.architecture, card.layers, card.dimension) == ("static", 0, 20)
    assert card.max_length == UNLIMITED
    assert card.parameters == 20 * len(WORDS)


def test_static_embedding_in_the_folder_of_its_module(tmp_path: Path) -> None:
    model = _sentence_model(tmp_path)
    inner = tmp_path / "0_StaticEmbedding"
    inner.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json"):
        if (tmp_path / name).is_file():
            (tmp_path / name).rename(inner / name)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = inner.name
    checkpoints.write_json(tmp_path / "modules.json", modules)
    _check(tmp_path, _unit(model.encode(TEXTS)))


def test_projections_and_norms_after_a_static_embedding(tmp_path: Path) -> None:
    model = _sentence_model(tmp_path, Normalize(), Dense(20, 7), LayerNorm(7), Normalize())
    _check(tmp_path, model.encode(TEXTS))


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "fp16": {"dtype": np.float16},
    "int8": {"dtype": np.int8},
    "weights": {"weights": True},
    "mapping": {"mapping": True},
    "weights and mapping": {"weights": True, "mapping": True},
    "weights, mapping, fp16": {"weights": True, "mapping": True, "dtype": np.float16},
    "weights, mapping, int8": {"weights": True, "mapping": True, "dtype": np.int8},
    "a maximum length": {"length": 5},
    "unit length": {"normalize": True},
}


def _model2vec(folder: Path, case: dict[str, Any]) -> StaticModel:
    random = np.random.default_rng(3)
    table = _table(5 if case.get("mapping") else len(WORDS))
    if case.get("dtype") == np.int8:
        table = np.round(table * 40)
    made = StaticModel(
        table.astype(case.get("dtype", np.float32)),
        _tokenizer(),
        normalize=case.get("normalize", False),
        weights=random.uniform(0.1, 3, len(WORDS)) if case.get("weights") else None,
        token_mapping=random.integers(0, 5, len(WORDS)) if case.get("mapping") else None,
        max_length=case.get("length"),
        config={"model_type": "model2vec", "apply_pca": 20, "apply_zipf": True},
    )
    made.save_pretrained(folder)
    return made


@pytest.mark.parametrize("case", CASES)
def test_model2vec(tmp_path: Path, case: str) -> None:
    made = _model2vec(tmp_path, CASES[case])
    wide = StaticModel.from_pretrained(tmp_path, max_length=CASES[case].get("length"))
    if wide.embedding.dtype == np.float16:  # its own sums are too short in this precision
        wide.embedding = wide.embedding.astype(np.float32)
    wide.median_token_length = 10**6  # it cuts at a number of characters first
    assert made.dim == 20
    _check(tmp_path, _unit(wide.encode(TEXTS)))


def test_a_text_is_cut_where_the_files_say_so(tmp_path: Path) -> None:
    _model2vec(tmp_path, {"length": 5})
    result = Encoder.load(tmp_path).embed(TEXTS)
    assert [(one.index, one.found, one.kept) for one in result.truncated] == [
        (2, 7, 5),
        (4, 1400, 5),
    ]


def test_an_empty_text_has_a_zero_vector(tmp_path: Path) -> None:
    _model2vec(tmp_path, {})
    result = Encoder.load(tmp_path).embed(["", "cat", "   "])
    assert result.token_counts.tolist() == [0, 1, 0]
    assert result.dense is not None
    assert not result.dense[[0, 2]].any() and result.dense[1].any()


@pytest.mark.parametrize("precision", ["bf16", "int8", "auto"])
def test_every_precision_runs(tmp_path: Path, precision: str) -> None:
    made = _model2vec(tmp_path, {"weights": True})
    found = Encoder.load(tmp_path, precision=precision).encode(TEXTS)
    np.testing.assert_allclose(found, _unit(made.encode(TEXTS)), atol=2e-2)


@pytest.mark.skipif(not native_extension.available(), reason="needs the compiled engine")
def test_texts_alone_are_those_of_a_batch(tmp_path: Path) -> None:
    _model2vec(tmp_path, {"weights": True})
    encoder = Encoder.load(tmp_path, engine="native")
    together = encoder.encode(TEXTS)
    for text, vector in zip(TEXTS, together, strict=True):
        np.testing.assert_array_equal(encoder.encode(text), vector)


def test_faults_are_named(tmp_path: Path) -> None:
    _model2vec(tmp_path, {"mapping": True, "weights": True})
    tensors = checkpoints.tensors_of(tmp_path)
    tensors["mapping"][3] = 9
    checkpoints.unshard(tmp_path, tensors)
    with pytest.raises(WeightsError, match="`mapping` has values that are no rows of `embeddings`"):
        Encoder.load(tmp_path)
    tensors["weights"] = tensors["weights"][:-1]
    checkpoints.unshard(tmp_path, tensors)
    with pytest.raises(WeightsError, match="`weights` has shape"):
        Encoder.load(tmp_path)
    checkpoints.unshard(tmp_path, {"other": tensors["embeddings"]})
    with pytest.raises(CheckpointError, match="has no table of word vectors"):
        Encoder.load(tmp_path)
