"""Evaluation on development data."""

import numpy as np
import pytest
import torch

from opengte import Encoder
from opengte.errors import InputError
from opengte.ranking_metrics import ndcg
from opengte.train.models.loading import load_trainable
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Contrastive
from opengte.train.stages import dev_evaluation
from opengte.train.stages.recipe import Recipe
from tests.support import train_small as small

LIMITS = Recipe().limits


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("encoder"))


def test_ranks_share_ties():
    from scipy.stats import spearmanr

    values = np.array([3, 1, 2, 2, 5, 5, 5], np.float32)
    gold = np.array([1, 4, 2, 2, 9, 3, 3], np.float32)
    ours = np.corrcoef(dev_evaluation.tied_ranks(values), dev_evaluation.tied_ranks(gold))[0, 1]
    assert ours == pytest.approx(spearmanr(values, gold).statistic)


def trainable(checkpoint) -> TrainableModel:
    return TrainableModel(load_trainable(checkpoint)).eval()


def test_retrieval_is_that_of_the_encoder(tmp_path, encoder):
    rows = small.pairs(50, negatives=2)
    rows[7]["query"] = rows[3]["query"]  # one query with two answers
    found = small.data(tmp_path, encoder, rows, "dev")
    measure = dev_evaluation.dev_evaluation(found, Contrastive(), LIMITS)
    with torch.no_grad():
        ours = measure(0, trainable(encoder))
    model = Encoder.load(encoder.folder)
    documents = list(dict.fromkeys(t for r in rows for t in (r["positive"], *r["negative"])))
    queries = list(dict.fromkeys(row["query"] for row in rows))
    relevant = np.zeros((len(queries), len(documents)), bool)
    for row in rows:
        relevant[queries.index(row["query"]), documents.index(row["positive"])] = True
    scores = model.encode_query(queries) @ model.encode_document(documents).T
    order = np.argsort(-scores, axis=1, kind="stable")
    gains = np.take_along_axis(relevant, order, axis=1)
    assert list(ours) == ["nDCG@10"]
    assert ours["nDCG@10"] == pytest.approx(ndcg(gains, relevant).mean(), abs=1e-3)


def test_scored_pairs_are_measured_by_spearman(tmp_path, encoder):
    from scipy.stats import spearmanr

    draw = np.random.default_rng(0)
    rows = [
        {"sentence1": row["query"], "sentence2": row["positive"], "score": float(draw.random())}
        for row in small.pairs(40)
    ]
    found = small.data(tmp_path, encoder, rows, "dev")
    measure = dev_evaluation.dev_evaluation(found, Contrastive(), LIMITS)
    ours = measure(0, trainable(encoder))
    model = Encoder.load(encoder.folder)
    a = model.encode([row["sentence1"] for row in rows])
    b = model.encode([row["sentence2"] for row in rows])
    theirs = spearmanr((a * b).sum(axis=1), [row["score"] for row in rows]).statistic
    assert ours["Spearman"] == pytest.approx(theirs, abs=1e-3)


def test_data_that_measures_nothing(tmp_path, encoder):
    found = small.data(tmp_path, encoder, [{"text": "red cat"}, {"text": "old dog"}], "dev")
    with pytest.raises(InputError, match="has no source that can be measured"):
        dev_evaluation.dev_evaluation(found, Contrastive(), LIMITS)(0, trainable(encoder))
