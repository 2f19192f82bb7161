"""Columns given or recognised by name."""

import pytest

from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import detect_columns
from opengte.errors import InputError
from tests.support.example_files import bad, good, read
from tests.support.training_data import write_lines


@pytest.mark.parametrize(
    ("row", "kind", "said"),
    [
        ({"anchor": "a", "positive": "b"}, "pairs", "query=anchor, positive=positive"),
        ({"question": "a", "answer": "b"}, "pairs", "query=question, positive=answer"),
        ({"left": "a", "right": "b"}, "pairs", "query=left, positive=right"),
        (
            {"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [1], "neg_scores": [0.5]},
            "pairs",
            "query=query, positive=pos, negative=neg, score=pos_scores+neg_scores",
        ),
        (
            {"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": "d"},
            "pairs",
            "query=anchor, positive=positive, negative=negative_1+negative_2",
        ),
        (
            {"sentence1": "a", "sentence2": "b", "score": 0.5},
            "scored",
            "query=sentence1, positive=sentence2, score=score",
        ),
        (
            {"sentence1": "a", "sentence2": "b", "label": "1"},
            "scored",
            "query=sentence1, positive=sentence2, score=label",
        ),
        ({"premise": "a", "hypothesis": "b", "label": "neutral"}, "pairs", "query=premise"),
        ({"text": "a", "label": 3}, "labelled", "label=label, text=text"),
        ({"id": 7, "text": "a"}, "texts", "text=text"),
    ],
)
def test_well_known_columns_are_recognised(tmp_path, row, kind, said):
    path = write_lines(tmp_path / "a.jsonl", [row])
    columns = detect_columns((path,), ColumnMapping())
    assert (columns.kind, str(columns)[: len(said)]) == (kind, said)
    assert not bad(path, columns)


def test_columns_that_cannot_be_told_or_are_not_there(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"en": "a", "fr": "b", "file": "c"}])
    with pytest.raises(InputError, match="which of the columns `en`, `fr`, `file` are the query"):
        detect_columns((path,), ColumnMapping())
    with pytest.raises(InputError, match="column `fire` is not there.* Did you mean `file`"):
        detect_columns((path,), ColumnMapping(query="en", positive=("fire",)))
    with pytest.raises(InputError, match="positive is not given"):
        detect_columns((path,), ColumnMapping(query="en"))
    with pytest.raises(InputError, match="excludes query and positive"):
        detect_columns((path,), ColumnMapping(query="en", text="fr"))


def test_columns_inside_objects_and_passages_with_titles(tmp_path):
    rows = [
        {
            "translation": {"en": "dog", "fr": "chien"},
            "positive_passages": [{"docid": "1", "title": "T", "text": "body"}, {"text": "x"}],
        }
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    inside = ColumnMapping(query="translation.en", positive=("translation.fr",))
    assert good(path, detect_columns((path,), inside)) == [("dog", ("chien",))]
    passages = ColumnMapping(query="translation.en", positive=("positive_passages",))
    assert good(path, passages) == [("dog", ("T body", "x"))]


def test_scores_are_one_for_each_document(tmp_path):
    rows = [
        {"query": "a", "positive": "b", "negative": ["c", ""], "scores": [1, 0.5]},
        {"query": "a", "positive": "b", "negative": [], "scores": [1, 2]},
        {"query": "a", "positive": "b", "scores": ["nan"]},
    ]
    path = write_lines(tmp_path / "a.jsonl", rows)
    first, second, third = read(path)
    assert first.scores == (1.0, 0.5)
    assert second.reason.startswith("`scores` has 2 numbers for 1 positives and negatives")
    assert third.reason == "`scores` is 'nan'; expected a finite number"
