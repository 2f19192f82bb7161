"""A trained model as a folder: the same vectors in both engines and in other libraries."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from opengte import Encoder, Reranker, arch, checkpoint
from opengte.arch.plan import Dense, ScoreHead
from opengte.errors import InputError, UnsupportedModelError
from opengte.reference.initialization import init_model
from opengte.reference.layers import to_device
from opengte.reference.model import ReferenceModel
from opengte.tokenization.loading import load_tokenizer
from opengte.tokenization.prompts import Prompts
from opengte.train.models.loading import load_trainable
from opengte.train.saving.export import ExportPackage, export_files, export_model
from opengte.train.saving.model_card import TrainedModelCard, TrainingDataSource
from opengte.types import PackedBatch
from tests.support import checkpoints
from tests.train.test_invariance import launch

TEXTS = ["the cat sat", "a dog ran in the park, and then home", "x"]
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {"intermediate_size": 40, "max_position_embeddings": 64},
    "xlm-roberta": {"intermediate_size": 40, "max_position_embeddings": 66, "type_vocab_size": 1},
    "gte": {"intermediate_size": 40, "max_position_embeddings": 64, "type_vocab_size": 0},
    "modernbert": {
        "intermediate_size": 40,
        "max_position_embeddings": 64,
        "local_attention": 8,
        "norm_eps": 1e-5,
    },
    "qwen2": {"intermediate_size": 40, "num_key_value_heads": 1, "is_causal": False},
    "qwen3": {"intermediate_size": 40, "num_key_value_heads": 1, "head_dim": 8},
    "camembert": {"intermediate_size": 40, "max_position_embeddings": 66, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 40},
    "electra": {"intermediate_size": 40, "max_position_embeddings": 64, "embedding_size": 32},
    "eurobert": {"intermediate_size": 40},
    "llama": {"intermediate_size": 40, "num_key_value_heads": 1, "rms_norm_eps": 1e-6},
    "mpnet": {"intermediate_size": 40, "max_position_embeddings": 66, "layer_norm_eps": 1e-12},
}
# read, but not written: refused before training
NOT_WRITTEN: dict[str, dict[str, Any]] = {
    "bert": {"position_embedding_type": "alibi", "feed_forward_type": "geglu"},
    "gemma3_text": {"intermediate_size": 40, "head_dim": 16},
    "nomic_bert": {"intermediate_size": 40},
}
CARD = TrainedModelCard(
    "toy",
    base_model="org/base",
    licence="apache-2.0",
    languages=("en",),
    data=(TrainingDataSource("faq", "pairs", 1200, "cc-by-4.0"),),
    settings={"steps": "10"},
    metrics={"dev nDCG@10": 0.5},
)


def config_of(kind: str) -> dict[str, Any]:
    ids = {"pad_token_id": int(kind in ("xlm-roberta", "camembert", "mpnet"))}
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"bos_token_id": 0, "eos_token_id": 1, "cls_token_id": 2, "sep_token_id": 3}
    if kind not in ("modernbert", "qwen2", "qwen3", "eurobert", "llama"):
        tokens = {}
    if kind == "distilbert":
        size = {}
    return {"model_type": kind, "vocab_size": 512, **size, **ids, **tokens, **CONFIGS[kind]}


def toy(kind: str, tmp_path: Path, **changes: Any) -> tuple[ReferenceModel, ExportPackage]:
    config = config_of(kind)
    (tmp_path / "tokenizer").mkdir()
    checkpoints.add_tokenizer(tmp_path / "tokenizer", kind)
    changes = {"pooling": "mean"} | changes
    plan = replace(arch.plan_of(config), **changes)
    model = init_model(plan, 0, std=0.2).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, 0, 0.1)
    prompts = Prompts(query="query: ", document="")
    return model, ExportPackage(config, tmp_path / "tokenizer", 32, prompts, CARD)


def ours(model: ReferenceModel, folder: Path, texts: list[str]) -> Any:
    batch = load_tokenizer(folder).encode(texts, max_length=32).batch
    with torch.no_grad():
        packed = to_device(batch, torch.device("cpu"))
        vectors = model.pool(model(packed), packed)
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_loaders_give_the_trained_vectors(kind: str, tmp_path: Path) -> None:
    model, package = toy(kind, tmp_path)
    folder = tmp_path / "out"
    export_model(model, folder, package)
    expected = ours(model, folder, TEXTS)
    for engine in ("native", "torch"):
        encoder = Encoder.load(str(folder), engine=engine, precision="fp32")
        np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-5)
        assert encoder.card.max_length == 32 and encoder.card.pooling == "mean"
        assert encoder.card.licence == "apache-2.0"
    queries = ours(model, folder, ["query: " + text for text in TEXTS])
    np.testing.assert_allclose(encoder.encode_query(TEXTS), queries, atol=2e-5)
    theirs = sentence_transformer(folder)
    np.testing.assert_allclose(theirs.encode(TEXTS), expected, atol=2e-5)
    np.testing.assert_allclose(theirs.encode_query(TEXTS), queries, atol=2e-5)


@pytest.mark.parametrize("kind", NOT_WRITTEN)
def test_what_cannot_be_written_is_refused_by_its_plan(kind: str) -> None:
    config = {"model_type": kind, "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 2}
    config |= {"num_attention_heads": 2, **NOT_WRITTEN[kind]}
    with pytest.raises(UnsupportedModelError, match="cannot be written"):
        export_files(arch.plan_of(config), config)


def sentence_transformer(folder: Path) -> Any:
    module = pytest.importorskip("sentence_transformers")
    return module.SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def test_projections_and_the_pooling_come_back(tmp_path: Path) -> None:
    dense = (Dense(24, True, "tanh"), Dense(16, False, "identity"))
    model, package = toy("bert", tmp_path, pooling="cls", dense=dense)
    export_model(model, tmp_path / "out", package)
    expected = ours(model, tmp_path / "out", TEXTS)
    assert expected.shape == (3, 16)
    encoder = Encoder.load(str(tmp_path / "out"), engine="native", precision="fp32")
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=2e-5)
    theirs = sentence_transformer(tmp_path / "out")
    np.testing.assert_allclose(theirs.encode(TEXTS), expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "gte", "xlm-roberta", "modernbert", "qwen2"])
def test_sparse_and_token_heads_come_back(kind: str, tmp_path: Path) -> None:
    model, package = toy(kind, tmp_path, sparse=True, token_width=32)
    assert model.sparse is not None
    torch.nn.init.constant_(model.sparse.bias, 1.0)
    export_model(model, tmp_path / "out", package)
    batch = load_tokenizer(tmp_path / "out").encode(TEXTS, max_length=32).batch
    packed = to_device(batch, torch.device("cpu"))
    with torch.no_grad():
        states = model(packed)
        words = torch.nn.functional.normalize(model.token_vectors(states), dim=-1)
        weights = model.sparse_weights(states)
    for engine in ("native", "torch"):
        encoder = Encoder.load(str(tmp_path / "out"), engine=engine, precision="fp32")
        found = encoder.embed(TEXTS, outputs=("sparse", "tokens"))
        assert found.tokens is not None and found.sparse is not None
        first = packed.positions != 0
        np.testing.assert_allclose(np.concatenate(found.tokens), words[first], atol=1e-4)
        largest = max(weight for row in found.sparse for weight in row.values())
        assert 0 < largest <= float(weights.max()) + 1e-4


@pytest.mark.parametrize("kind", ["bert", "gte", "xlm-roberta", "modernbert", "qwen2", "qwen3"])
def test_rerankers_come_back(kind: str, tmp_path: Path) -> None:
    config = config_of(kind) | {"architectures": ["XForSequenceClassification"], "num_labels": 1}
    score = arch.plan_of(config).score
    assert isinstance(score, ScoreHead)
    model, package = toy(kind, tmp_path, score=score, pooling=None)
    folder = tmp_path / "out"
    export_model(model, folder, package)
    batch = load_tokenizer(folder).encode_pairs([("a cat", t) for t in TEXTS], max_length=32).batch
    packed = to_device(batch, torch.device("cpu"))
    with torch.no_grad():
        expected = model.scores(model(packed), packed).numpy()
    for engine in ("native", "torch"):
        reranker = Reranker.load(str(folder), engine=engine, precision="fp32")
        np.testing.assert_allclose(reranker.score("a cat", TEXTS), expected, atol=2e-5)
    if not kind.startswith("qwen"):
        module = pytest.importorskip("transformers")
        theirs = module.AutoModelForSequenceClassification.from_pretrained(folder).eval()
        rows = [batch.select(np.array([i])) for i in range(3)]
        with torch.no_grad():
            scores = [
                theirs(
                    input_ids=torch.from_numpy(r.ids.astype(np.int64))[None],
                    **(
                        {"token_type_ids": torch.from_numpy(r.type_ids.astype(np.int64))[None]}
                        if kind == "bert"
                        else {}
                    ),
                ).logits[0, 0]
                for r in rows
            ]
        np.testing.assert_allclose(torch.stack(scores), expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["bert", "gte", "xlm-roberta", "modernbert"])
def test_masked_language_models_come_back(kind: str, tmp_path: Path) -> None:
    plan = arch.with_masked_head(arch.plan_of(config_of(kind)))
    model, package = toy(kind, tmp_path, masked=plan.masked, pooling=None)
    folder = tmp_path / "out"
    export_model(model, folder, package)
    ids = torch.tensor([5, 9, 7, 11])
    batch = one_text(ids)
    packed = to_device(batch, torch.device("cpu"))
    assert model.masked is not None
    with torch.no_grad():
        states = model.masked(model(packed))
        expected = states @ model.embedding.word.T + model.masked.bias
    module = pytest.importorskip("transformers")
    theirs = module.AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        np.testing.assert_allclose(theirs(input_ids=ids[None]).logits[0], expected, atol=5e-5)
    checkpoints.add_modules(folder, "mean", max_seq_length=32)  # so that it reads as an encoder
    again = load_trainable(checkpoint.read_checkpoint(folder), plan=replace(plan, pooling="mean"))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(again.get_parameter(name), parameter, rtol=0, atol=0)


def one_text(ids: torch.Tensor) -> Any:
    n = len(ids)
    zero = np.zeros(n, np.int32)
    return PackedBatch(
        ids.numpy().astype(np.int32), np.array([0, n], np.int32), zero, np.zeros(1, np.int32)
    )


def test_a_new_head_starts_random_and_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "opengte.train")
    model, package = toy("bert", tmp_path)
    export_model(model, tmp_path / "out", package)
    stored = checkpoint.read_checkpoint(tmp_path / "out")
    again = load_trainable(stored, replace(stored.plan, sparse=True))
    assert torch.equal(again.layers[0].qkv.weight, model.layers[0].qkv.weight)
    assert again.training and all(p.requires_grad for p in again.parameters())
    assert "start random: sparse.bias, sparse.weight" in caplog.text
    narrow = replace(stored.plan, layers=stored.plan.layers[:1])
    assert len(load_trainable(stored, narrow).layers) == 1
    with pytest.raises(InputError, match="plan gives `embedding.position` the shape"):
        embedding = replace(stored.plan.embedding, positions=9)
        load_trainable(stored, replace(stored.plan, embedding=embedding))


def test_the_card_lists_data_settings_and_results(tmp_path: Path) -> None:
    model, package = toy("bert", tmp_path)
    export_model(model, tmp_path / "out", package)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\nlicense: apache-2.0\nlanguage:\n- en\nbase_model: org/base\n")
    for part in (
        "| faq | pairs | 1,200 | cc-by-4.0 |",
        "| steps | 10 |",
        "| dev nDCG@10 | 0.5000 |",
    ):
        assert part in text
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [
        "BertModel"
    ]


def test_an_older_export_is_replaced_whole(tmp_path: Path) -> None:
    model, package = toy("bert", tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "stale.txt").write_text("old")
    export_model(model, tmp_path / "out", replace(package, dtype="bf16"))
    assert not (tmp_path / "out" / "stale.txt").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "tokenizer"]
    assert checkpoint.read_checkpoint(tmp_path / "out").stored_dtype == "bf16"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, package = toy("gte", tmp_path)
    wrong = replace(package, config={**package.config, "rope_theta": 99.0})
    with pytest.raises(InputError, match="another network than the model in layers"):
        export_model(model, tmp_path / "out", wrong)
    with pytest.raises(InputError, match="has no tokenizer's files"):
        export_model(model, tmp_path / "out", replace(package, tokenizer=tmp_path))
    decoder, package = toy_again("qwen3", tmp_path, score=yes_no())
    with pytest.raises(UnsupportedModelError, match="train a sequence classifier"):
        export_model(decoder, tmp_path / "out", package)
    assert not (tmp_path / "out").exists()


def yes_no() -> ScoreHead:
    return ScoreHead("last", None, None, 2, False, vocabulary_rows=(5, 6))


def toy_again(kind: str, tmp_path: Path, **changes: Any) -> tuple[ReferenceModel, ExportPackage]:
    (tmp_path / kind).mkdir()
    return toy(kind, tmp_path / kind, **changes)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_model_is_sharded_by_shape_and_filled_in_place(size: int, tmp_path: Path) -> None:
    model, package = toy("qwen2", tmp_path)
    export_model(model, tmp_path / "out", package)
    launch(size, "tests.support.train_shapes", str(tmp_path / "out"))
