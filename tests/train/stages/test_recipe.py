"""How budgets become batches and steps, what measures a model, and merging."""

import pytest

from opengte.errors import InputError
from opengte.train.stages.recipe import Recipe, schedule_batches
from tests.support import train_small as small


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
