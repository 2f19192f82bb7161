"""Classifiers of pairs with several classes against sentence-transformers' CrossEncoder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sentence_transformers import CrossEncoder

from opengte import Reranker
from opengte.checkpoint import read_checkpoint
from opengte.errors import CapabilityError, UnsupportedModelError
from opengte.serve.inference.loading import load_model
from tests.parity.test_sentence_modules import ENGINES
from tests.support import checkpoints
from tests.support.inference import MODEL

PAIRS = [
    ("what do cats eat", "Cats eat meat."),
    ("a", "The dog sat on the mat. " * 9),
    ("tax", ""),
    ("what do cats eat", "Income tax law."),
]
BERT: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "vocab_size": 30522}


def _write(folder: Path, labels: list[str], kind: str = "Bert") -> None:
    names = dict(enumerate(labels))
    settings = (BERT if kind == "Bert" else DISTIL) | {"id2label": names}
    settings |= {"label2id": {name: i for i, name in names.items()}}
    config = getattr(transformers, f"{kind}Config")(**settings)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    checkpoints.transformers_model(folder, model)
    source = read_checkpoint("minilm").folder
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((source / name).read_bytes())


@pytest.mark.parametrize("kind", ["Bert", "DistilBert"])
@pytest.mark.parametrize("labels", [["no", "yes"], ["contradiction", "entailment", "neutral"]])
def test_logits_of_all_classes(tmp_path: Path, labels: list[str], kind: str) -> None:
    _write(tmp_path, labels, kind)
    judge = CrossEncoder(str(tmp_path), device="cpu")
    wanted = judge.predict(PAIRS, activation_fn=torch.nn.Identity(), convert_to_numpy=True)
    for engine in ENGINES:
        reranker = Reranker.load(tmp_path, engine=engine, precision="fp32")
        assert reranker.card.labels == tuple(labels)
        np.testing.assert_allclose(reranker.classify(PAIRS), wanted, rtol=0, atol=1e-5)


def test_two_classes_score_by_their_difference(tmp_path: Path) -> None:
    _write(tmp_path, ["no", "yes"])
    reranker = Reranker.load(tmp_path, precision="fp32")
    logits = reranker.classify([PAIRS[0], PAIRS[3]])
    scores = reranker.score(PAIRS[0][0], [PAIRS[0][1], PAIRS[3][1]])
    np.testing.assert_array_equal(scores, logits[:, 1] - logits[:, 0])


def test_more_classes_have_no_score(tmp_path: Path) -> None:
    _write(tmp_path, ["contradiction", "entailment", "neutral"])
    reranker = Reranker.load(tmp_path)
    with pytest.raises(CapabilityError, match=r"3 classes apart \(contradiction, .*Use classify"):
        reranker.score("a", ["b"])
    with pytest.raises(UnsupportedModelError, match="a classifier with 3 classes"):
        load_model(MODEL.__class__(str(tmp_path)))
    assert reranker.classify([]).shape == (0, 3)


def test_one_class_is_one_column(tmp_path: Path) -> None:
    _write(tmp_path, ["relevant"])
    reranker = Reranker.load(tmp_path, precision="fp32")
    scores = reranker.score(PAIRS[0][0], [PAIRS[0][1]])
    np.testing.assert_array_equal(reranker.classify(PAIRS[:1])[:, 0], scores)
    assert reranker.card.labels == ()
