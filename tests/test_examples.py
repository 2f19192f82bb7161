"""The programs in examples/ run, and do what they say."""

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from opengte import Encoder, Reranker
from opengte.errors import DownloadError
from opengte.serve.config.inference import ModelSettings
from tests.support import checkpoints, train_small
from tests.support.serve_running import running

EXAMPLES = Path(__file__).parents[1] / "examples"
QUESTION = "why is 0.1 + 0.2 not equal to 0.3?"


def load(name: str) -> ModuleType:
    """Import an example as a newcomer's program would be: from its file."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # pydantic resolves annotations through it
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules[name]
    return module


def run(name: str, *arguments: str) -> str:
    """Run an example in a process of its own; returns what it prints."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    try:
        return Encoder.load("minilm")
    except DownloadError as error:
        pytest.skip(f"the default model cannot be fetched: {error}")


@pytest.mark.usefixtures("minilm")
def test_semantic_search_finds_the_paragraph():
    assert len((EXAMPLES / "semantic_search.py").read_text().splitlines()) <= 22
    first = run("semantic_search", str(EXAMPLES / "documents"), QUESTION).split("\n\n")[0]
    assert "value stored for `x`" in first


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fastapi_service(minilm):
    from fastapi.testclient import TestClient

    with TestClient(load("fastapi_service").app) as client:
        body = {"texts": ["a cat", "word " * 2000], "role": "query"}
        response = client.post("/embed", json=body).json()
        assert client.post("/embed", json={"texts": []}).status_code == 422
    assert response["truncated"] == [1]
    assert response["vectors"][0] == pytest.approx(minilm.encode_query("a cat").tolist(), abs=1e-6)


def test_reranking_orders_the_candidates_and_counts_in_the_input(minilm, tmp_path):
    checkpoints.new_model(
        tmp_path / "r", architectures=["NewForSequenceClassification"], max_position_embeddings=512
    )
    module, reranker = load("rerank"), Reranker.load(tmp_path / "r")
    documents = module.DOCUMENTS
    hits = module.retrieve_and_rerank(
        QUESTION, documents, encoder=minilm, reranker=reranker, candidates=3
    )
    assert [documents[hit.index] for hit in hits] == [hit.text for hit in hits]
    assert "A kitten takes a nap on the window sill." not in {hit.text for hit in hits}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_finetuning_on_a_csv_file(tmp_path):
    start = train_small.model(tmp_path / "start")
    rows = train_small.pairs(60)
    with (tmp_path / "faq.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "answer"])
        writer.writerows((row["query"], row["positive"]) for row in rows)
    folder = load("finetune_csv").finetune_csv(
        tmp_path / "faq.csv", tmp_path / "tuned", model=str(start.folder)
    )
    assert Encoder.load(folder).encode("red cat").shape == (start.plan.dimension,)


@pytest.mark.usefixtures("minilm")
def test_the_server_from_the_openai_client():
    with running([ModelSettings("minilm", offline=True)]) as url:
        lines = run("openai_client", "--url", f"{url}/v1").splitlines()
    assert "floating point" in lines[0]
    assert len(lines) == 2
