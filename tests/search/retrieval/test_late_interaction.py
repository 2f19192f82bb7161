"""From a random PyLate folder to an answer on the search page, and what is kept on the way."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

pytest.importorskip("lancedb", reason="an index is kept in LanceDB")
pytest.importorskip("transformers", reason="writes a checkpoint with transformers")

from opengte import Encoder, KnowledgeBase, LateInteraction
from opengte.cli import main
from opengte.errors import InputError
from opengte.search.retrieval.late import passage_offsets
from tests.support import checkpoints, kb_web, late

TEXTS = {
    "cat": "# The cat\n\nThe cat sat on the mat. The dog ran.\n\n## Night\n\nA cat sleeps all day.",
    "dog": "# The dog\n\nThe dog sat. A dog barks at the cat, and the cat sat on the mat.",
    "mat": "# The mat\n\nOn the mat the dog sat; the mat and the cat.",
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of a dense model and of a late-interaction model, both random."""
    root = tmp_path_factory.mktemp("models")
    checkpoints.new_model(root / "dense")
    checkpoints.add_modules(root / "dense", "mean", max_seq_length=64)
    late.pylate(root / "late", document_length=60)
    return root


@pytest.fixture(scope="module")
def notes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files") / "notes"
    folder.mkdir()
    for name, text in TEXTS.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def base(models, notes, tmp_path_factory) -> KnowledgeBase:
    """An index, made by the command and opened again by its settings alone."""
    place = tmp_path_factory.mktemp("kb") / "kb"
    arguments = ["index", "run", str(notes), "--to", str(place), "--passage-tokens", "12"]
    options = ["--model", str(models / "dense"), "--precision", "fp32", "--late"]
    done = CliRunner().invoke(main, [*arguments, *options, str(models / "late")])
    assert done.exit_code == 0, done.output
    assert "20 bytes a token, about" in done.output
    return KnowledgeBase.open(place)


@pytest.fixture(scope="module")
def model(models) -> LateInteraction:
    identity = Encoder.load(models / "late")
    return LateInteraction(identity)


def passages(base):
    for one in base.store.scan():
        for window in one.windows:
            for place, (start, end) in enumerate(window.spans.bounds.tolist()):
                yield one, window.late, place, one.text[start:end]


def test_token_vectors_of_every_passage_are_kept(base, model):
    count = 0
    for _, kept, place, text in passages(base):
        first, last = kept.starts[place], kept.starts[place + 1]
        (expected,) = model.encode_document([text])
        np.testing.assert_allclose(kept.floats()[first:last], expected, atol=0.01)
        count += 1
    assert count >= 5


@pytest.mark.parametrize("query", ["the cat sat", "a dog barks", "mat"])
def test_a_hit_has_the_best_maxsim_of_its_passages(base, model, query):
    result = base.search(query, k=3)
    (asked,) = model.encode_query([query])
    best: dict[str, tuple[float, str]] = {}
    for one, _, _, text in passages(base):
        score = float(model.maxsim(asked, model.encode_document([text]))[0])
        best[one.id] = max(best.get(one.id, (-1e9, "")), (score, text))
    assert set(best) == {hit.id for hit in result.hits}
    for hit in result.hits:
        assert hit.legs["late"].score == pytest.approx(best[hit.id][0], rel=0.02)
        assert hit.passage.text == best[hit.id][1]
    order = sorted(result.hits, key=lambda hit: hit.legs["late"].rank)
    scores = [hit.legs["late"].score for hit in order]
    assert scores == sorted(scores, reverse=True)
    assert result.candidates["late"] == 3 and "late" in result.seconds


def test_marks_are_the_words_whose_tokens_matched(base, model):
    query = "the cat barks"
    hit = base.search(query, k=1).hits[0]
    text, encoder = hit.passage.text, model.encoder
    ids = encoder.tokenizer.encode([query], prompt="[Q] ", max_length=12).batch.ids
    (asked,), (vectors,) = model.encode_query([query]), model.encode_document([text])
    offsets = passage_offsets(model, text)
    assert len(offsets) == len(vectors)
    own = asked[2 : len(ids) - 1]  # without [CLS], the marker, [SEP] and the expansion
    matched = {offsets[i] for i in (own @ vectors.T).argmax(axis=1)}
    for start, end in hit.passage.marks:
        assert any(start <= a and b <= end for a, b in matched if b > a)
    assert hit.passage.marks


def test_the_leg_is_chosen_weighted_and_explained(base):
    assert "late" not in base.search("a cat", legs=("dense", "lexical")).candidates
    assert base.search("a cat", legs=("dense", "late")).candidates.keys() == {"dense", "late"}
    with pytest.raises(InputError, match="late alone, which scores what another leg found"):
        base.search("a cat", legs=("late",))
    explained = base.explain("a cat barks", base.search("a cat").hits[0].id)
    assert "late" in [step.name for step in explained.steps]
    arguments = ["search", "the cat", "--in", base.place, "--json", "--weight", "late=2"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "late" in json.loads(done.output.splitlines()[0])["legs"]


def test_an_answer_on_the_search_page(base):
    page = TestClient(kb_web.app(kb_web.desk(base)))
    assert page.get("/status").json()["knowledge_bases"][0]["legs"] == ["dense", "lexical", "late"]
    hit = page.post("/search", json={"query": "a dog barks"}).json()["hits"][0]
    assert hit["legs"]["late"]["rank"] >= 1
    assert hit["passage"]["marks"]


def test_a_long_query_is_told(base):
    assert not base.search("a cat").notes
    notes = base.search("the cat and the dog " * 10).notes
    assert any("longer than the late-interaction model takes" in note for note in notes)


def test_an_export_keeps_token_vectors(base, tmp_path):
    base.export(tmp_path / "kb.parquet")
    copy = KnowledgeBase.restore(tmp_path / "kb.parquet", tmp_path / "copy")
    for (_, kept, *_), (_, other, *_) in zip(passages(base), passages(copy), strict=True):
        np.testing.assert_array_equal(kept.values, other.values)
    assert copy.search("a cat").hits[0].id == base.search("a cat").hits[0].id


def test_another_model_is_refused(base, models, notes):
    arguments = ["index", "run", str(notes), "--to", base.place, "--late", "other"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code != 0
    assert "--late is 'other', but the index" in str(done.output) + str(done.exception)


def test_a_store_without_token_vectors_is_refused(models, tmp_path):
    encoder = Encoder.load(models / "dense", precision="fp32")
    model = LateInteraction.load(models / "late", precision="fp32")
    with pytest.raises(InputError, match="late interaction scores passages"):
        KnowledgeBase.create(tmp_path / "kb", encoder, passages="none", late=model)
