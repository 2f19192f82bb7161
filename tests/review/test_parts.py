"""Parts of a review: differences to sources, how alike rankings are, both directions, arms."""

from dataclasses import replace

import numpy as np
import pytest

from opengte.errors import InputError
from opengte.evaluate.significance import bootstrap_interval, holm_correction, randomisation_p
from opengte.review.arms import ArmChoices, make_arms
from opengte.review.attribution import Attributor, corrected_p
from opengte.review.judgments import JudgedQuery
from opengte.review.labelling import rank_overlap
from opengte.review.pipeline import Pipeline
from opengte.review.sources import compare_sources, read_sources
from opengte.search.retrieval.fusion import Fusion
from opengte.search.retrieval.search import SearchOptions
from tests.support import kb as support
from tests.support.installed import needs

needs("lancedb", "scipy")

SETTINGS = {
    "model": {"model": "minilm", "instruction": None},
    "language": "English",
    "window_tokens": None,
}
ABOUT = ArmChoices(place="kb", settings=SETTINGS, prompts={})


def test_sources_are_missing_stale_or_garbled(tmp_path):
    text = "the red cat sleeps in the house by the river every day of the year"
    garbled = "the rcd cat slccps in the housc by the rivcr cvcry day of the ycar"
    base = support.kb(tmp_path)
    base.add([text, garbled, text.upper(), "a cat"], ["same", "garbled", "old", "short"])
    documents = {one.id: one for one in base.store.scan()}
    now = {name: ("", text, ()) for name in ("same", "garbled", "gone", "short")}
    found = compare_sources(documents, now, set(documents))
    assert found.kinds == {"garbled": "garbled", "gone": "missing", "short": "stale"}
    assert found.counts() == {"garbled": 1, "missing": 1, "stale": 1}
    assert not compare_sources({}, {"same": now["same"]}, {"same"}).kinds, "outside the pool"


def test_sources_are_files_or_rows(tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "cat.md").write_text("# Cats\n\nThe cat sleeps.\n")
    base = support.kb(tmp_path)
    base.index([notes])
    (notes / "cat.md").write_text("# Cats\n\nThe cat eats.\n")
    (notes / "dog.md").write_text("# Dogs\n\nThe dog runs.\n")
    index = base.latest()
    documents = {one.id: one for one in index.store.scan()}
    found = compare_sources(documents, read_sources(index, notes), set(documents))
    assert sorted(found.kinds.values()) == ["missing", "stale"]
    (tmp_path / "rows.jsonl").write_text('{"_id": "a", "title": "A", "text": "x"}\n')
    assert read_sources(index, tmp_path / "rows.jsonl") == {"a": ("A", "x", ())}
    (tmp_path / "rows.jsonl").write_text('{"text": "x"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl`:1 has no `id` or no `text`"):
        read_sources(index, tmp_path / "rows.jsonl")


def test_overlap_counts_the_top_most():
    a = (("a",), ("b",), ("c",))
    assert rank_overlap(a, a) == pytest.approx(1.0)
    assert rank_overlap(a, (("x",), ("y",), ("z",))) == 0.0
    assert rank_overlap(a, (("b",), ("a",), ("c",))) < rank_overlap(a, (("a",), ("c",), ("b",)))
    assert rank_overlap((), ()) == 1.0
    assert rank_overlap(a, ()) == 0.0


@pytest.mark.parametrize(
    "live",
    [
        Pipeline(SearchOptions()),
        Pipeline(SearchOptions(fusion=Fusion(weights={"lexical": 0.0}))),
        Pipeline(SearchOptions(legs=("lexical",), depth=2, exact=True, collapse=False)),
    ],
)
def test_each_arm_changes_one_part(live):
    arms = make_arms(live, ABOUT)
    assert len({one.name for one in arms}) == len(arms)
    for arm in arms:
        changed = arm.change(live)
        assert changed != live
        assert arm.change(changed) == changed
        assert arm.command


class Gains:
    """Stands for a replay: each factor adds to the quality of queries, two of them in part the
    same."""

    def __init__(self, queries, seed=0):
        chance = np.random.default_rng(seed)
        self.noise = {one.text: chance.normal(0, 0.02) for one in queries}
        self.hit = {one.text: chance.random() < 0.5 for one in queries}

    def quality(self, pipeline, query):
        if not self.hit[query.text]:
            return 0.1
        found = 0.2 + self.noise[query.text] * (pipeline.options.exact or 1)
        exact, deep = pipeline.options.exact, pipeline.options.candidates > 2
        return found + 0.3 * exact + 0.2 * deep - 0.2 * (exact and deep)


def test_steps_are_measured_in_both_directions():
    queries = [JudgedQuery(f"q{n}") for n in range(100)]
    live = Pipeline(SearchOptions(depth=2, k=2))
    arms = [x for x in make_arms(live, ABOUT) if x.name in ("exact vectors", "200 candidates")]
    found = Attributor(Gains(queries), queries).run(live, arms)
    assert [one.alone.arm.name for one in found.steps] == ["exact vectors"]
    assert [x.arm.name for x in found.steps[0].same] == ["200 candidates"]

    class Both(Gains):
        def quality(self, pipeline, query):
            return super().quality(pipeline, query) + 0.15 * (
                pipeline.options.exact and pipeline.options.candidates > 2 and self.hit[query.text]
            )

    found = Attributor(Both(queries), queries).run(live, arms)
    assert [x.alone.arm.name for x in found.steps] == ["exact vectors", "200 candidates"]
    share = sum(Both(queries).hit.values()) / 100
    second = found.steps[1]
    assert second.alone.gain == pytest.approx(0.2 * share, abs=0.01)
    assert second.last.gain == pytest.approx(0.15 * share, abs=0.01)
    assert second.expected == pytest.approx(0.175 * share, abs=0.01)
    assert second.interacts


def test_p_and_interval_are_those_of_a_slow_twin():
    rng = np.random.default_rng(0)
    gains = rng.choice([0.0, 0.0, 0.3, -0.2, 0.6], 12)
    changed = gains[gains != 0]
    signs = (np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed)) & 1) * 2 - 1
    means = (signs * changed).mean(axis=1)
    slow = np.mean(np.abs(means) >= abs(changed.mean()) - 1e-12)
    assert randomisation_p(gains) == pytest.approx(slow, abs=1e-9)
    low, high = bootstrap_interval(gains)
    twin = [rng.choice(gains, len(gains)).mean() for _ in range(20_000)]
    assert (low, high) == pytest.approx(tuple(np.quantile(twin, [0.025, 0.975])), abs=0.03)


def test_correction_is_holms_where_all_weigh_the_same():
    rng = np.random.default_rng(1)
    for _ in range(50):
        p = {str(n): float(x) for n, x in enumerate(rng.random(6) ** 3)}
        found = [(name, value, np.ones(50), 2.0) for name, value in p.items()]
        assert corrected_p(found) == pytest.approx(holm_correction(p))


def test_arms_that_could_not_be_significant_do_not_count():
    many = [(f"idle {n}", 1.0, np.zeros(50), 1.0) for n in range(20)]
    few = [("three", 0.25, np.ones(3), 1.0)]
    found = corrected_p([*many, *few, ("real", 0.04, np.ones(50), 1.0)])
    assert found["real"] == pytest.approx(0.04)
    assert found["three"] == found["idle 3"] == 1.0


def test_weights_keep_the_share_of_false_alarms():
    """With nothing real, some arm is called better in at most one round in twenty."""
    rng, rounds = np.random.default_rng(2), 4000
    weights = [1.0, 1.0, 0.1, 0.1, 0.1]
    said = 0
    for _ in range(rounds):
        p = rng.random(5)
        rows = [(str(n), p[n], np.ones(50), weights[n]) for n in range(5)]
        said += min(corrected_p(rows).values()) <= 0.05
    assert said / rounds <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / rounds)


def test_pipelines_with_mappings_are_keys():
    one = Pipeline(SearchOptions(fusion=Fusion(weights={"lexical": 0.5})))
    assert {one: 1}[replace(one)] == 1
