"""Judgments: their files, clicks against their expectation, documents that are not there."""

import pytest

from opengte.errors import InputError
from opengte.review.judgments import click_judgments, judge, label_counts, read_judgments
from opengte.review.logs import LoggedQuery, QueryLog
from tests.support import kb as support
from tests.support.installed import needs

needs("lancedb")


def log(*texts):
    return QueryLog(tuple(LoggedQuery(x, f"log:{n}", f"q{n}") for n, x in enumerate(texts)), ())


@pytest.fixture
def index(tmp_path):
    base = support.kb(tmp_path)
    base.add(["the cat sleeps", "the dog eats grass"], ["cat", "dog"])
    return base.latest()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.tsv", "query-id\tcorpus-id\tscore\nred cat\tcat\t1\nred cat\tdog\t0\n"),
        ("q.trec", "q0 0 cat 1\nq0 0 dog 0\n"),
        ("q.jsonl", '{"query": "red  cat", "relevant": ["cat"]}\n'),
        ("q.csv", "question,document\nred cat,cat\n"),
    ],
)
def test_each_form_of_judgments(tmp_path, index, name, text):
    (tmp_path / name).write_text(text)
    found, missing = judge(log("red cat", "tax", "red cat"), index, read_judgments(tmp_path / name))
    assert [(x.text, x.count, x.relevant) for x in found] == [
        ("red cat", 2, {"cat": 1.0}),
        ("tax", 1, None),
    ]
    assert not missing
    assert label_counts(found) == {"labels": 1}


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.tsv", "query-id\tcorpus-id\tscore\na\tb\tgood\n", r"q\.tsv`:2 has the grade 'good'"),
        ("q.tsv", "query-id\tdocument\na\tb\n", r":2 has not the three columns"),
        ("q.txt", "a b c\n", r":1 has 3 columns; expected query-id"),
        ("q.txt", "", "has no judgment"),
        ("q.jsonl", '{"query": "a"}\n', "does not say what answers"),
    ],
)
def test_judgments_that_cannot_be_read(tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_judgments(tmp_path / name)


def test_documents_that_are_not_in_the_index_are_told(tmp_path, index):
    (tmp_path / "q.jsonl").write_text('{"query": "a cat", "relevant": ["cat", "lion"]}\n')
    found, missing = judge(log("a cat"), index, read_judgments(tmp_path / "q.jsonl"))
    assert missing == [("a cat", "lion")]
    assert found[0].relevant == {"cat": 1.0}
    assert found[0].absent == {"lion": 1.0}


def test_judgments_of_something_else(tmp_path, index):
    (tmp_path / "q.jsonl").write_text('{"query": "a lion", "relevant": ["lion"]}\n')
    given = read_judgments(tmp_path / "q.jsonl")
    with pytest.raises(InputError, match="no judgment is of a query of the log"):
        judge(log("a cat"), index, given)
    with pytest.raises(InputError, match="they are of another collection"):
        judge(log("a lion"), index, given)


def test_clicks_count_against_what_their_positions_let_expect():
    shown = ("first", "second", "third")
    rows = [LoggedQuery("other", "", "", shown, ("first",))] * 30
    rows += [LoggedQuery("q", "", "", shown, ("third",))] * 3
    rows += [LoggedQuery("once", "", "", shown, ("third",))]
    found = click_judgments(rows).grades
    assert set(found["q"]) == {"third"}
    assert found["q"]["third"] > found["other"]["first"]
    assert "once" not in found, "one click says little"


def test_labels_come_before_clicks(tmp_path, index):
    clicked = LoggedQuery("red cat", "log:1", "", ("dog",), ("dog",))
    (tmp_path / "q.jsonl").write_text('{"query": "red cat", "relevant": ["cat"]}\n')
    given = read_judgments(tmp_path / "q.jsonl")
    found, _ = judge(QueryLog((clicked, clicked), ()), index, given)
    assert found[0].relevant == {"cat": 1.0}
    found, _ = judge(QueryLog((clicked, clicked), ()), index)
    assert (found[0].origin, set(found[0].relevant)) == ("clicks", {"dog"})
