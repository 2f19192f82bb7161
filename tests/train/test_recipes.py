"""How budgets become batches and steps, what measures a model, and merging."""

import numpy as np
import pytest
import torch

from opengte import Encoder
from opengte import checkpoint as checkpoints
from opengte.errors import InputError
from opengte.ranking_metrics import ndcg
from opengte.reference.load import load_reference_model
from opengte.train.models.loading import load_trainable
from opengte.train.models.trainable import TrainableModel
from opengte.train.objectives import Contrastive
from opengte.train.saving import merge
from opengte.train.stages import dev_evaluation
from opengte.train.stages.recipe import Recipe, schedule_batches
from tests.support import train_small as small

LIMITS = Recipe().limits


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return small.model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, encoder):
    return small.data(tmp_path_factory.mktemp("data"), encoder, small.pairs(600))


def test_a_small_budget_takes_a_smaller_batch(dataset):
    whole = schedule_batches(dataset, Recipe(largest=128, epochs=1))
    assert whole.batch == 16
    assert whole.steps == pytest.approx(dataset.rows / 16, abs=1)
    assert schedule_batches(dataset, Recipe(largest=128, epochs=5)).batch == 32
    assert schedule_batches(dataset, Recipe(largest=64, epochs=50)).batch == 64
    assert (
        schedule_batches(dataset, Recipe(largest=10**6, epochs=10**5)).batch == 512
    )  # of 600 rows or so


def test_a_budget_in_tokens(dataset):
    found = schedule_batches(dataset, Recipe(tokens=50_000, batch=20))
    tokens = sum(len(s.ids) for source in dataset.sources for s in source.shards)
    assert found.steps == pytest.approx(50_000 / (tokens / dataset.rows * 20), rel=0.1)
    assert schedule_batches(dataset, Recipe(tokens=50_000, steps=3)).steps == 3


def test_a_batch_that_was_given_must_fit(dataset):
    with pytest.raises(InputError, match="sources smaller than a batch of 5000: `rows`"):
        schedule_batches(dataset, Recipe(batch=5000))


def test_buckets_shrink_with_the_batch(dataset):
    found = schedule_batches(dataset, Recipe(largest=64, batch=16), ((12, 64), (60, 8)))
    assert {stratum.batch for stratum in found.order.strata} <= {16, 2}


@pytest.mark.parametrize("change", [{"batch": 0}, {"tokens": 0}, {"epochs": 0.0}, {"steps": -1}])
def test_impossible_budgets(change):
    (name,) = change
    with pytest.raises(InputError, match=f"{name} is {change[name]}, expected"):
        Recipe(**change)


def test_ranks_share_ties():
    from scipy.stats import spearmanr

    values = np.array([3, 1, 2, 2, 5, 5, 5], np.float32)
    gold = np.array([1, 4, 2, 2, 9, 3, 3], np.float32)
    ours = np.corrcoef(dev_evaluation._ranks(values), dev_evaluation._ranks(gold))[0, 1]
    assert ours == pytest.approx(spearmanr(values, gold).statistic)


def trainee(checkpoint) -> TrainableModel:
    return TrainableModel(load_trainable(checkpoint)).eval()


def test_retrieval_is_that_of_the_encoder(tmp_path, encoder):
    rows = small.pairs(50, negatives=2)
    rows[7]["query"] = rows[3]["query"]  # one query with two answers
    found = small.data(tmp_path, encoder, rows, "dev")
    measure = dev_evaluation.dev_evaluation(found, Contrastive(), LIMITS)
    with torch.no_grad():
        ours = measure(0, trainee(encoder))
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
    ours = measure(0, trainee(encoder))
    model = Encoder.load(encoder.folder)
    a = model.encode([row["sentence1"] for row in rows])
    b = model.encode([row["sentence2"] for row in rows])
    theirs = spearmanr((a * b).sum(axis=1), [row["score"] for row in rows]).statistic
    assert ours["Spearman"] == pytest.approx(theirs, abs=1e-3)


def test_data_that_measures_nothing(tmp_path, encoder):
    found = small.data(tmp_path, encoder, [{"text": "red cat"}, {"text": "old dog"}], "dev")
    with pytest.raises(InputError, match="has no source that can be measured"):
        dev_evaluation.dev_evaluation(found, Contrastive(), LIMITS)(0, trainee(encoder))


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    return [small.model(folder / str(seed), seed=seed) for seed in range(3)]


def weights(folder) -> dict[str, torch.Tensor]:
    found = checkpoints.read_checkpoint(folder)
    model = load_reference_model(found.plan, found.chunks(), torch.float64, "cpu")
    return {name: value.detach() for name, value in model.named_parameters()}


def test_an_average_is_the_mean_of_the_weights(tmp_path, others):
    folders = [one.folder for one in others]
    merge.average_models(folders, tmp_path / "merged", (1, 2, 5))
    given = [weights(folder) for folder in folders]
    for name, value in weights(tmp_path / "merged").items():
        expected = (given[0][name] + 2 * given[1][name] + 5 * given[2][name]) / 8
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert "(0.625)" in (tmp_path / "merged/README.md").read_text()


def test_slerp_goes_along_the_arc(tmp_path, others):
    a, b = (one.folder for one in others[:2])
    merge.slerp(a, b, tmp_path / "merged", 0.25)
    first, second = weights(a), weights(b)
    for name, value in weights(tmp_path / "merged").items():
        x, y = first[name], second[name]
        angle = torch.arccos((x * y).sum() / (x.norm() * y.norm())) if x.norm() else None
        if angle is None or not angle > 1e-6:
            expected = x + 0.25 * (y - x)
        else:
            expected = (torch.sin(0.75 * angle) * x + torch.sin(0.25 * angle) * y) / angle.sin()
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_the_ends_of_the_arc_are_the_models():
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 3, 4, generator=draw)
    torch.testing.assert_close(merge.slerp_tensor(a, b, 0.0), a)
    torch.testing.assert_close(merge.slerp_tensor(a, b, 1.0), b)
    torch.testing.assert_close(merge.slerp_tensor(a, 2 * a, 0.5), 1.5 * a)
    assert not merge.slerp_tensor(torch.zeros(3), torch.zeros(3), 0.5).any()


def test_models_that_cannot_be_merged(tmp_path, others):
    one = others[0].folder
    with pytest.raises(InputError, match="1 models and 1 weights; expected two models or more"):
        merge.average_models([one], tmp_path / "a")
    with pytest.raises(InputError, match="expected none below 0 and one above it"):
        merge.average_models([one, one], tmp_path / "a", (0, 0))
    with pytest.raises(InputError, match="t is 2, expected 0"):
        merge.slerp(one, one, tmp_path / "a", 2)
    with pytest.raises(InputError, match="is another network than"):
        merge.average_models([one, "minilm"], tmp_path / "a")
    assert not (tmp_path / "a").exists()
