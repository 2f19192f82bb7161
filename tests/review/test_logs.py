"""Logs of queries: each kind, and what is wrong with rows."""

import json

import pytest

from opengte.errors import InputError
from opengte.review.logs import LoggedQuery, read_log


def write(tmp_path, name, *rows):
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / name


def test_plain_text_has_a_query_on_each_line(tmp_path):
    log = read_log(write(tmp_path, "log.txt", "undo  a commit", "", '{"query": "kept"}'))
    assert [one.text for one in log.queries] == ["undo a commit", '{"query": "kept"}']
    assert [one.place for one in log.queries] == ["log.txt:1", "log.txt:3"]


def test_tables_name_their_columns(tmp_path):
    path = write(tmp_path, "log.csv", "question,answered", "undo?,no", '"a, b",yes', "c,d,e")
    log = read_log(path)
    assert [(one.text, one.answered) for one in log.queries] == [("undo?", False), ("a, b", True)]
    assert [(x.place, x.reason) for x in log.problems] == [
        ("log.csv:4", "has 3 columns; expected 2, as in the header")
    ]


def test_behaviour_insights_join_clicks_to_their_queries(tmp_path):
    event = {"event_attributes": {"object": {"object_id": "doc-2"}}, "query_id": "a"}
    rows = (
        {"query_id": "a", "user_query": "undo", "query_response_hit_ids": ["doc-1", "doc-2"]},
        {**event, "action_name": "click"},
        {"action": "click", "query_id": "a", "object_id": "doc-1"},
        {**event, "action_name": "scroll"},
        {**event, "action_name": "click", "query_id": "b"},
        {"action_name": "click", "query_id": "a"},
    )
    log = read_log(write(tmp_path, "ubi.jsonl", *rows))
    assert log.queries == (
        LoggedQuery("undo", "ubi.jsonl:1", "a", ("doc-1", "doc-2"), ("doc-2", "doc-1")),
    )
    assert sorted(one.place for one in log.problems) == [
        "ubi.jsonl:4",
        "ubi.jsonl:5",
        "ubi.jsonl:6",
    ]


@pytest.mark.parametrize("nested", [False, True])
def test_spans_of_openinference(tmp_path, nested):
    flat = {
        "openinference.span.kind": "RETRIEVER",
        "input.value": '{"query": "undo a commit"}',
        "input.mime_type": "application/json",
        "retrieval.documents.0.document.id": "git.md",
    }
    tree = {
        "openinference": {"span": {"kind": "RETRIEVER"}},
        "input": {"value": "undo a commit"},
        "retrieval": {"documents": [{"document": {"id": "git.md"}}]},
    }
    chain = {"name": "chat", "attributes": {"openinference.span.kind": "CHAIN"}}
    span = {"name": "retrieve", "attributes": tree if nested else flat}
    log = read_log(write(tmp_path, "spans.jsonl", chain, span))
    assert log.queries == (LoggedQuery("undo a commit", "spans.jsonl:2", shown=("git.md",)),)
    assert log.problems[0].reason == "a span of the kind CHAIN: no search"


def test_batches_of_otlp(tmp_path):
    attributes = [
        {"key": "gen_ai.operation.name", "value": {"stringValue": "retrieval"}},
        {"key": "gen_ai.retrieval.query.text", "value": {"stringValue": "undo"}},
    ]
    spans = [{"attributes": attributes}, {"attributes": []}]
    batch = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}
    log = read_log(write(tmp_path, "otlp.jsonl", batch))
    assert log.queries == (LoggedQuery("undo", "otlp.jsonl:1, span 1"),)
    assert log.problems[0].place == "otlp.jsonl:1, span 2"


def test_every_row_is_kept_or_reported(tmp_path):
    rows = ["undo", "{", 3, {"page": 1}, {"query": ""}, {"query": 5}, {"query": "x" * 9000}]
    log = read_log(write(tmp_path, "log.jsonl", *map(json.dumps, rows[:1]), *rows[1:]))
    assert len(log.queries) + len(log.problems) == len(rows)
    assert {one.place for one in log.problems} == {f"log.jsonl:{n}" for n in range(2, 8)}
    assert log.summary()[0][1] == 1


def test_a_log_without_queries_says_why(tmp_path):
    with pytest.raises(InputError, match=r"has no query: has no query: expected one of the fields"):
        read_log(write(tmp_path, "log.jsonl", {"page": 1}))
    with pytest.raises(InputError, match="it is empty"):
        read_log(write(tmp_path, "log.txt", ""))
    with pytest.raises(InputError, match=r"the log `missing\.txt` is no file"):
        read_log("missing.txt")


def test_deep_and_odd_json_is_a_problem_of_its_row(tmp_path):
    deep = "[" * 100_000
    spans = {"name": "x", "attributes": [{"key": "a"}, 3]}
    log = read_log(write(tmp_path, "log.jsonl", deep, spans, {"query": "kept"}))
    assert [one.text for one in log.queries] == ["kept"]
    assert len(log.problems) == 2
