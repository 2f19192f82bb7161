"""Names of models as clients write them."""

import pytest

from opengte.serve.config.inference import ModelSettings
from opengte.serve.types import find_named

MODELS = (
    ModelSettings("Alibaba-NLP/gte-base-en-v1.5", name="base", aliases=("text-embedding-3-small",)),
    ModelSettings("Alibaba-NLP/gte-large-en-v1.5"),
    ModelSettings("minilm"),
    ModelSettings("BAAI/bge-m3", name="m3-a"),
    ModelSettings("BAAI/bge-m3", name="M3-A"),
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("base", 0),
        ("Base", 0),
        ("BASE:latest", 0),
        ("text-embedding-3-small", 0),
        ("Text-Embedding-3-Small:latest", 0),
        ("Alibaba-NLP/gte-base-en-v1.5", 0),
        ("alibaba-nlp/GTE-base-en-v1.5", 0),
        ("alibaba-nlp/gte-large-en-v1.5", 1),
        ("MiniLM", 2),
        ("sentence-transformers/all-MiniLM-L6-v2", 2),
        ("m3-a", 3),
        ("M3-A", 4),
        ("m3-A", None),  # either of two
        ("BAAI/bge-m3", None),
        ("gte-base-en-v1.5", None),
        ("base:v2", None),
        ("bas", None),
        ("", None),
    ],
)
def test_a_model_is_found_by_what_clients_call_it(name, expected):
    found = find_named(name, MODELS)
    assert found is (None if expected is None else MODELS[expected])


def test_a_folder_has_no_hub_id(tmp_path, monkeypatch):
    (tmp_path / "org" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert ModelSettings("org/model").hub_id is None
    assert ModelSettings(str(tmp_path / "org" / "model")).hub_id is None
    assert ModelSettings("org/other").hub_id == "org/other"
    assert ModelSettings("pypi:some-package").hub_id is None
