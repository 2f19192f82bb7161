"""A whole review: planted faults are named, nothing is written, bad input is told."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

from opengte.cli import main
from opengte.errors import AccessError, InputError
from opengte.review.attribution import Attributor
from opengte.review.judgments import JudgedQuery
from opengte.review.pipeline import Pipeline
from opengte.review.redaction import Redactor
from opengte.review.report import review_report
from opengte.review.run import LEAST_QUERIES, ReadOnlyStore, ReviewOptions, review
from opengte.search.filters import parse_filter
from opengte.search.retrieval.fusion import Fusion
from opengte.search.retrieval.search import SearchOptions
from tests.support import kb as support
from tests.support.installed import needs

needs("lancedb", "scipy", "snowballstemmer")

COUNT = 40
LIVE = Pipeline(SearchOptions(k=3))


def facts(count=COUNT):
    """Documents of words of their own, and a question for each with two of these."""
    rng = np.random.default_rng(3)
    texts, queries = {}, {}
    for number in range(count):
        words = [f"word{number}{letter}" for letter in "abcdef"]
        texts[f"d{number:02}"] = " ".join([*words, *rng.choice(support.WORDS, 4)])
        queries[f"{words[1]} {words[4]} mail ann@example.org"] = f"d{number:02}"
    return texts, queries


def made(tmp_path, texts, **settings):
    base = support.kb(tmp_path, **settings)
    fields = [{"even": int(name[-1]) % 2 == 0} for name in texts]
    base.add(list(texts.values()), list(texts), metadata=[{"even": int(x["even"])} for x in fields])
    return base


def labelled(queries, base):
    there = set(base.store.known(list(queries.values())))
    return [
        JudgedQuery(
            text,
            relevant={name: 1.0} if name in there else {},
            absent={} if name in there else {name: 1.0},
            origin="labels",
        )
        for text, name in queries.items()
    ]


def hashed(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_missing_documents_are_data_and_nothing_is_written(tmp_path):
    texts, queries = facts()
    base = made(tmp_path, {name: texts[name] for name in list(texts)[: COUNT * 3 // 4]})
    before = hashed(tmp_path / "kb")
    asked = labelled(queries, base)
    sources = {name: ("", text, ()) for name, text in texts.items()}
    found = review(base.latest(), asked, LIVE, sources=sources, encoder=base.encoder)
    assert hashed(tmp_path / "kb") == before
    (step,) = found.attribution.steps
    assert step.alone.arm.stage == "data"
    assert "10 missing" in step.alone.arm.name
    assert step.low <= 0.25 <= step.high, "a quarter of the questions has no document"
    assert step.alone.mends == COUNT // 4
    assert found.costs[step.alone.arm.name].documents == COUNT // 4


def test_a_filter_that_hides_is_retrieval(tmp_path):
    texts, queries = facts()
    base = made(tmp_path, texts)
    live = replace(LIVE, options=replace(LIVE.options, where=parse_filter({"even": 1})))
    found = review(base.latest(), labelled(queries, base), live, encoder=base.encoder)
    step = found.attribution.steps[0]
    assert (step.alone.arm.name, step.alone.arm.stage) == ("no filter", "retrieval")


def test_two_faults_are_both_named(tmp_path):
    texts, queries = facts()
    base = made(tmp_path, {name: texts[name] for name in list(texts)[: COUNT * 3 // 4]})
    options = replace(LIVE.options, where=parse_filter({"even": 1}))
    sources = {name: ("", text, ()) for name, text in texts.items()}
    asked = labelled(queries, base)
    live = replace(LIVE, options=options)
    found = review(base.latest(), asked, live, sources=sources, encoder=base.encoder)
    assert {x.alone.arm.stage for x in found.attribution.steps} == {"retrieval", "data"}
    for step in found.attribution.steps:
        assert step.low <= (step.alone.gain + step.last.gain) / 2 <= step.high


@pytest.mark.parametrize("asked", [True, False])
def test_a_healthy_index_has_no_step(tmp_path, asked):
    texts, queries = facts()
    base = made(tmp_path, texts)
    known = labelled(queries, base)
    if not asked:
        known = [replace(one, relevant=None, absent=None, origin="none") for one in known]
    found = review(base.latest(), known, LIVE, encoder=base.encoder)
    assert not found.attribution.steps
    verdict = review_report(found, Redactor()).verdict
    assert "Nothing can be told" in verdict
    assert "no query failed" in verdict


def test_without_labels_pseudo_judgments_say_how_far_they_go(tmp_path):
    texts, queries = facts()
    base = made(tmp_path, texts)
    known = labelled(queries, base)
    part = [replace(one, relevant=None, absent=None, origin="none") for one in known[12:]]
    live = replace(LIVE, options=replace(LIVE.options, where=parse_filter({"even": 1})))
    found = review(base.latest(), [*known[:12], *part], live, encoder=base.encoder)
    assert found.basis == "pseudo-judgments"
    assert found.attribution.steps[0].alone.arm.name == "no filter"
    trust = {one.origin: one for one in found.reliabilities}
    assert trust["agreement"].precision > 0.9
    assert trust["known item"].queries > 0


def test_a_reranker_is_stopped_early_only_if_it_is_hopeless(tmp_path):
    texts, queries = facts(80)
    base = made(tmp_path, texts)
    good = {text: texts[name] for text, name in queries.items()}

    class Judge:
        def __init__(self, sign):
            self.sign = sign

        def score(self, text, passages):
            return [self.sign * (good[text] in one) for one in passages]

    rerankers = {"bad": lambda: Judge(-1), "good": lambda: Judge(1)}
    live = replace(LIVE, options=replace(LIVE.options, fusion=Fusion(weights={"lexical": 0.0})))
    asked = labelled(queries, base)
    found = review(base.latest(), asked, live, encoder=base.encoder, rerankers=rerankers)
    arms = {one.arm.name: one for one in found.attribution.arms}
    assert arms["reranker bad"].early
    assert not arms["reranker good"].early
    assert len(arms["reranker good"].gains) == 80


def test_what_there_is_no_time_for_is_told(tmp_path):
    texts, queries = facts()
    base = made(tmp_path, texts)
    options = ReviewOptions(seconds=1e-9)
    found = review(
        base.latest(), labelled(queries, base), LIVE, encoder=base.encoder, options=options
    )
    assert "the same model again" in {arm.name for arm, _ in found.attribution.untried}
    assert "are left" in found.attribution.untried[0][1]


def test_a_store_that_is_only_read_refuses_writing(tmp_path):
    base = made(tmp_path, facts(3)[0])
    with pytest.raises(AccessError, match="a review only reads: `put` would change the index"):
        ReadOnlyStore(base.store).put([])


def test_an_index_that_changes_meanwhile_is_told(tmp_path, monkeypatch):
    texts, queries = facts()
    base = made(tmp_path, texts)
    run = Attributor.run

    def changing(self, live, arms):
        base.add(["another document"], ["new"])
        return run(self, live, arms)

    monkeypatch.setattr(Attributor, "run", changing)
    found = review(base.latest(), labelled(queries, base), LIVE, encoder=base.encoder)
    assert any("the index changed during the review" in note for note in found.notes)


def test_five_queries_show_little(tmp_path):
    texts, queries = facts()
    base = made(tmp_path, texts)
    found = review(base.latest(), labelled(queries, base)[:5], LIVE, encoder=base.encoder)
    assert any(f"expected at least {LEAST_QUERIES}" in note for note in found.notes)


def test_nothing_to_review(tmp_path):
    base = support.kb(tmp_path)
    with pytest.raises(InputError, match="there is no query to review"):
        review(base.latest(), [], LIVE, encoder=base.encoder)
    with pytest.raises(InputError, match="the index has no documents"):
        review(base.latest(), [JudgedQuery("red")], LIVE, encoder=base.encoder)


def test_the_page_and_the_json_of_a_command_hide_what_is_private(tmp_path, monkeypatch):
    monkeypatch.setattr("opengte.encoder.Encoder.load", support.WordEncoder.load)
    monkeypatch.setattr("opengte.Encoder.load", support.WordEncoder.load)
    texts, queries = facts()
    base = made(tmp_path, texts)
    del base
    log, labels = tmp_path / "log.txt", tmp_path / "labels.jsonl"
    log.write_text("\n".join(queries) + "\n")
    rows = [{"query": text, "relevant": [name]} for text, name in queries.items()]
    labels.write_text("\n".join(map(json.dumps, rows)) + "\n")
    page = tmp_path / "review.html"
    arguments = ["review", str(tmp_path / "kb"), "--queries", str(log), "--judgments", str(labels)]
    arguments += ["--where", "even=1", "-k", "3", "--report", str(page), "--json", "--price", "2"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert (
        f"hidden: email in {COUNT} queries, written as: word0b word0e mail [email]" in done.stderr
    )
    said = json.loads(done.stdout)
    assert said["data"]["steps"][0]["name"] == "no filter"
    text = page.read_text()
    assert "ann@example.org" not in text + done.stdout
    assert "Next step: no filter (retrieval)" in text
    assert "src=" not in text and "href=" not in text, "the page has no assets outside"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--budget", "soon", "is no duration"),
        ("--min-confidence", "x", "expected a number or auto"),
    ],
)
def test_options_that_cannot_be_meant(tmp_path, option, value, said):
    made(tmp_path, facts(3)[0])
    (tmp_path / "log.txt").write_text("red\n")
    arguments = ["review", str(tmp_path / "kb"), "--queries", str(tmp_path / "log.txt")]
    done = CliRunner().invoke(main, [*arguments, option, value])
    assert done.exit_code == 2
    assert said in done.stderr
