"""Texts that must not be trained on."""

from opengte.data.reading.text_extraction import all_texts
from tests.support.training_data import write_lines


def test_texts_to_exclude_are_all_texts_of_a_benchmark(tmp_path):
    rows = [
        {"_id": "1", "title": "T", "text": "body", "metadata": {"note": "n"}},
        {"_id": "2", "text": "other", "tags": ["a", "b"], "label": "no"},
    ]
    path = write_lines(tmp_path / "corpus.jsonl", rows)
    assert sorted(all_texts(path)) == ["T", "T body", "a", "b", "body", "n", "other"]
