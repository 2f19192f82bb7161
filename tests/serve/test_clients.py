"""The official clients, as installed from PyPI, against a running server."""

import asyncio
import gc
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opengte import Encoder, Reranker
from opengte.errors import LimitError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.types import Caller
from tests.support import checkpoints
from tests.support.serve_running import running

# the clients' own warnings are not ours to mend
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

TEXTS = [
    "How do I keep a cat happy?",
    "Cats like to play, to hide and to sleep in the sun.",
    "Die Donaudampfschifffahrtsgesellschaft, 世界, 🐈",
    "The engine of the ship was repaired in the dock. " * 20,
]


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reranker")
    checkpoints.new_model(folder, architectures=["NewForSequenceClassification"], num_labels=1)
    return folder


def _models(folder: Path) -> list[ModelSettings]:
    return [
        ModelSettings("minilm", precision="fp32", offline=True),
        ModelSettings(str(folder), name="reranker", engine="torch", precision="fp32"),
    ]


@pytest.fixture(scope="module")
def url(reranker_folder: Path) -> Iterator[str]:
    with running(_models(reranker_folder)) as address:
        yield address


@pytest.fixture(scope="module")
def vocabularies() -> Path:
    spec = importlib.util.find_spec("llama_index")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("llama-index-core, which has OpenAI's vocabularies with it, is not installed")
    return Path(list(spec.submodule_search_locations)[0]) / "core" / "_static" / "tiktoken_cache"


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load("minilm", precision="fp32", offline=True)


@pytest.fixture(scope="module")
def expected(encoder: Encoder) -> np.ndarray:
    return np.asarray(encoder.embed(TEXTS).dense)


@pytest.fixture(scope="module")
def scores(reranker_folder: Path) -> np.ndarray:
    reranker = Reranker.load(reranker_folder, engine="torch", precision="fp32")
    logits = np.asarray(reranker.score(TEXTS[0], TEXTS[1:3]), dtype=np.float64)
    return 1 / (1 + np.exp(-logits))


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """Let go of what clients leave open while nobody minds."""
    yield
    gc.collect()


def client(name: str) -> Any:
    return pytest.importorskip(name, reason=f"the client {name} is not installed")


def same(found: Any, vectors: np.ndarray) -> None:
    np.testing.assert_array_equal(np.asarray(found, dtype=np.float32), vectors)


class Impatient:
    """A gate that sends the first requests away."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def authenticate(self, secret: str | None, model: str | None) -> Caller:
        self.refusals -= 1
        if self.refusals >= 0:
            raise LimitError("One request at a time.", 0.05)
        return Caller("k")

    def reserve(self, identity: Caller, model: str, tokens: int) -> None: ...

    def record(self, identity: Caller, model: str, tokens: int, texts: int) -> None: ...


def test_openai(url: str, expected: np.ndarray, encoder: Encoder) -> None:
    openai = client("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as api:
        answer = api.embeddings.create(model="minilm", input=TEXTS)
        same([row.embedding for row in answer.data], expected)
        assert [row.index for row in answer.data] == [0, 1, 2, 3]
        counts = encoder.embed(TEXTS).token_counts
        assert answer.usage.prompt_tokens == answer.usage.total_tokens == counts.sum()
        plain = api.embeddings.create(model="minilm", input=TEXTS[0], encoding_format="float")
        same(plain.data[0].embedding, expected[0])
        small = api.embeddings.create(model="minilm", input=TEXTS[0], dimensions=64)
        np.testing.assert_allclose(np.linalg.norm(small.data[0].embedding), 1, atol=1e-5)
        assert len(small.data[0].embedding) == 64
        query = api.embeddings.create(
            model="minilm", input=TEXTS[0], extra_body={"input_type": "query"}
        )
        same(query.data[0].embedding, encoder.encode_query(TEXTS[0]))
        assert {model.id for model in api.models.list()} == {"minilm", "reranker"}
        assert api.models.retrieve("minilm").id == "minilm"
        raw = api.embeddings.with_raw_response.create(model="minilm", input="word " * 400)
        assert raw.headers["x-opengte-truncated"] == "1; indices=0"
        assert raw.parse().usage.prompt_tokens == 402  # what was read, more than was embedded


def test_azure_openai(url: str, expected: np.ndarray) -> None:
    openai = client("openai")
    azure = {"azure_endpoint": url, "api_key": "none", "api_version": "2024-02-01"}
    with openai.AzureOpenAI(**azure) as api:
        answer = api.embeddings.create(model="minilm", input=TEXTS)
        same([each.embedding for each in answer.data], expected)
        assert answer.model == "minilm"
    with openai.AzureOpenAI(**azure, azure_deployment="MiniLM", max_retries=0) as api:
        answer = api.embeddings.create(model="whatever", input=TEXTS[0])
        same([each.embedding for each in answer.data], expected[:1])
    with openai.AzureOpenAI(**azure, max_retries=0) as api, pytest.raises(openai.NotFoundError):
        api.embeddings.create(model="none", input="a")


def test_openai_errors(url: str) -> None:
    openai = client("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
        with pytest.raises(openai.NotFoundError) as missing:
            api.embeddings.create(model="gpt-4", input="a")
        assert missing.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="expected"):
            api.embeddings.create(model="minilm", input="a", dimensions=4000)
        with pytest.raises(openai.BadRequestError, match="maximum context length is 256 tokens"):
            api.embeddings.create(
                model="minilm", input="word " * 400, extra_body={"truncate": False}
            )
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False"):
            api.embeddings.create(model="minilm", input=[[1, 2, 3]])
        with pytest.raises(openai.APIStatusError):
            api.embeddings.create(model="reranker", input="a")


def test_openai_async(url: str, expected: np.ndarray) -> None:
    openai = client("openai")

    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as api:
            return await asyncio.gather(
                *(api.embeddings.create(model="minilm", input=text) for text in TEXTS * 8)
            )

    answers = asyncio.run(ask())
    same([answer.data[0].embedding for answer in answers], np.tile(expected, (8, 1)))


def test_openai_retries_when_told_to(expected: np.ndarray) -> None:
    openai = client("openai")
    gate = Impatient(refusals=2)
    with (
        running([ModelSettings("minilm", precision="fp32", offline=True)], gate) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="key", max_retries=2) as api,
    ):
        answer = api.embeddings.create(model="minilm", input=TEXTS[0])
        same(answer.data[0].embedding, expected[0])
        assert gate.refusals == -1
        gate.refusals = 3
        with pytest.raises(openai.RateLimitError):
            api.embeddings.create(model="minilm", input=TEXTS[0])


def test_openai_ids_of_the_model_itself(url: str, encoder: Encoder, expected: np.ndarray) -> None:
    openai = client("openai")
    import httpx

    tokens = httpx.post(f"{url}/tokenize", json={"inputs": TEXTS[:2]}).json()
    ids = [[token["id"] for token in row] for row in tokens]
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as api:
        answer = api.embeddings.create(model="minilm", input=ids, extra_body={"token_ids": "model"})
    same([row.embedding for row in answer.data], expected[:2])


def test_langchain(
    url: str, expected: np.ndarray, vocabularies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabularies))
    langchain = client("langchain_openai")
    options = {"model": "minilm", "base_url": f"{url}/v1", "api_key": "none"}
    texts = langchain.OpenAIEmbeddings(**options, check_embedding_ctx_length=False)
    same(texts.embed_documents(TEXTS), expected)
    same(texts.embed_query(TEXTS[0]), expected[0])
    same(asyncio.run(texts.aembed_documents(TEXTS)), expected)
    # its default sends OpenAI's ids, which are not this model's
    ids = langchain.OpenAIEmbeddings(**options, max_retries=0)
    with pytest.raises(Exception, match="check_embedding_ctx_length=False"):
        ids.embed_documents(TEXTS)


def test_langchain_by_default_where_the_server_has_the_vocabulary(
    expected: np.ndarray, vocabularies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(vocabularies))
    langchain = client("langchain_openai")
    models = [ModelSettings("minilm", precision="fp32", offline=True)]
    with running(models, token_ids="tiktoken", tiktoken_files=vocabularies) as url:
        api = langchain.OpenAIEmbeddings(model="minilm", base_url=f"{url}/v1", api_key="none")
        # it normalises what it gets once more
        np.testing.assert_allclose(api.embed_documents(TEXTS), expected, atol=1e-6)
        np.testing.assert_allclose(api.embed_query(TEXTS[2]), expected[2], atol=1e-6)


def test_llama_index(url: str, expected: np.ndarray) -> None:
    module = client("llama_index.embeddings.openai")
    api = module.OpenAIEmbedding(model_name="minilm", api_base=f"{url}/v1", api_key="none")
    same(api.get_text_embedding_batch(TEXTS), expected)
    same(api.get_query_embedding(TEXTS[0]), expected[0])
    same(asyncio.run(api.aget_text_embedding_batch(TEXTS)), expected)


def test_cohere_v2(url: str, expected: np.ndarray, scores: np.ndarray, encoder: Encoder) -> None:
    cohere = client("cohere")
    api = cohere.ClientV2(api_key="none", base_url=url)
    answer = api.embed(
        model="minilm",
        texts=TEXTS,
        input_type="search_document",
        embedding_types=["float", "int8", "ubinary"],
    )
    same(answer.embeddings.float_, encoder.encode_document(TEXTS))
    np.testing.assert_array_equal(
        np.unpackbits(np.array(answer.embeddings.ubinary, np.uint8), axis=1), expected > 0
    )
    rough = np.array(answer.embeddings.int8, np.float32)
    cosines = np.sum(rough * expected, axis=1) / np.linalg.norm(rough, axis=1)
    assert cosines.min() > 0.999
    assert answer.meta.billed_units.input_tokens == encoder.embed(TEXTS).token_counts.sum()
    ranked = api.rerank(model="reranker", query=TEXTS[0], documents=TEXTS[1:3])
    found = {result.index: result.relevance_score for result in ranked.results}
    np.testing.assert_allclose([found[0], found[1]], scores, atol=1e-6)
    with pytest.raises(cohere.NotFoundError) as missing:
        api.embed(model="embed-v4.0", texts=["a"], input_type="search_query")
    assert "embed-v4.0" in missing.value.body["message"]
    with pytest.raises(cohere.BadRequestError):
        api.embed(model="minilm", texts=["word " * 400], input_type="search_query", truncate="NONE")


def test_cohere_v1(url: str, scores: np.ndarray, encoder: Encoder) -> None:
    cohere = client("cohere")
    api = cohere.Client(api_key="none", base_url=url)
    answer = api.embed(model="minilm", texts=TEXTS[:2], input_type="search_query")
    same(answer.embeddings, encoder.encode_query(TEXTS[:2]))
    ranked = api.rerank(
        model="reranker", query=TEXTS[0], documents=TEXTS[1:3], return_documents=True
    )
    found = {result.index: result.relevance_score for result in ranked.results}
    np.testing.assert_allclose([found[0], found[1]], scores, atol=1e-6)
    assert ranked.results[0].document.text in TEXTS
    assert ranked.meta.billed_units.search_units == 1


def test_voyage(url: str, expected: np.ndarray, scores: np.ndarray, encoder: Encoder) -> None:
    voyageai = client("voyageai")
    api = voyageai.Client(api_key="none", base_url=f"{url}/v1")
    same(api.embed(TEXTS, model="minilm").embeddings, expected)
    answer = api.embed(TEXTS, model="minilm", input_type="query")
    same(answer.embeddings, encoder.encode_query(TEXTS))
    assert answer.total_tokens == encoder.embed(TEXTS, role="query").token_counts.sum()
    whole = api.embed(TEXTS[:1], model="minilm", output_dtype="int8").embeddings[0]
    assert min(whole) >= -128 and max(whole) <= 127 and all(isinstance(v, int) for v in whole)
    ranked = api.rerank(TEXTS[0], TEXTS[1:3], model="reranker", top_k=2)
    found = {result.index: result.relevance_score for result in ranked.results}
    np.testing.assert_allclose([found[0], found[1]], scores, atol=1e-6)
    assert ranked.results[0].document in TEXTS
    with pytest.raises(voyageai.error.InvalidRequestError, match="max_length"):
        api.embed(["word " * 400], model="minilm", truncation=False)


def test_voyage_contextualized(url: str, expected: np.ndarray) -> None:
    voyageai = client("voyageai")
    import httpx

    api = voyageai.Client(api_key="none", base_url=f"{url}/v1")
    answer = api.contextualized_embed([TEXTS[:2], [TEXTS[2]]], model="minilm")
    first, second = answer.results
    same(second.embeddings, expected[2:3])
    body = {"input": TEXTS[:2], "model": "minilm", "late_chunking": True}
    late = httpx.post(f"{url}/v1/embeddings", json=body).json()["data"]
    same(first.embeddings, np.array([row["embedding"] for row in late], np.float32))
    near = np.sum(np.array(first.embeddings, np.float32) * expected[:2], axis=1)
    assert (near < 0.9999).all() and (near > 0.5).all()


def test_ollama(url: str, expected: np.ndarray, encoder: Encoder) -> None:
    ollama = client("ollama")
    api = ollama.Client(host=url)
    answer = api.embed(model="minilm", input=TEXTS)
    same(answer.embeddings, expected)
    assert answer.prompt_eval_count == encoder.embed(TEXTS).token_counts.sum()
    one = np.array(api.embeddings(model="minilm:latest", prompt=TEXTS[0]).embedding, np.float32)
    np.testing.assert_allclose(one / np.linalg.norm(one), expected[0], atol=1e-6)
    assert {model.model for model in api.list().models} == {"minilm:latest", "reranker:latest"}
    assert api.show("minilm").modelinfo["bert.embedding_length"] == 384
    assert len(api.ps().models) == 2
    with pytest.raises(ollama.ResponseError, match="not found, try pulling it first") as missing:
        api.embed(model="nomic-embed-text", input="a")
    assert missing.value.status_code == 404

    async def ask() -> Any:
        return await ollama.AsyncClient(host=url).embed(model="minilm", input=TEXTS[0])

    same(asyncio.run(ask()).embeddings, expected[:1])


def test_huggingface_hub(url: str, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = client("huggingface_hub")
    # the server is not the Hub
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    api = hub.InferenceClient(model=url, token="none")
    same(api.feature_extraction(TEXTS[0]), expected[:1])
    same(api.feature_extraction(TEXTS, truncate=True, normalize=True), expected)
    same(
        hub.InferenceClient(model=f"{url}/embed", token="none").feature_extraction(TEXTS[1]),
        expected[1:2],
    )
    cosines = api.sentence_similarity(TEXTS[0], other_sentences=TEXTS[1:])
    np.testing.assert_allclose(cosines, expected[1:] @ expected[0], atol=1e-5)
    with pytest.raises(hub.errors.HfHubHTTPError) as refused:
        api.feature_extraction("word " * 400, truncate=False)
    assert refused.value.response.status_code == 422
    assert "max_length" in refused.value.response.json()["error"]

    async def ask() -> Any:
        async with hub.AsyncInferenceClient(model=url, token="none") as own:
            return await own.feature_extraction(TEXTS[0])

    same(asyncio.run(ask()), expected[:1])


def test_tei_and_llamacpp_by_hand(
    url: str, expected: np.ndarray, scores: np.ndarray, encoder: Encoder
) -> None:
    import httpx

    with httpx.Client(base_url=url) as http:
        found = http.post("/embedding", json={"content": TEXTS}).json()
        same([row["embedding"][0] for row in found], expected)
        tokens = http.post("/tokenize", json={"content": TEXTS[0]}).json()["tokens"]
        plain = http.post("/detokenize", json={"tokens": tokens}).json()["content"]
        assert plain.lower().replace(" ", "") == TEXTS[0].lower().replace(" ", "")
        states = http.post("/embed_all", json={"inputs": TEXTS[0]}).json()
        embedded = encoder.embed(TEXTS[:1], outputs=("states",)).states
        assert embedded is not None
        same(states[0], embedded[0])
        info = http.get("/info").json()
        assert info["max_input_length"] == 256
        assert info["model_type"] == {"embedding": {"pooling": "mean"}}
        assert http.get("/health").json()["status"] == "ok"
        ids = [
            [token["id"] for token in row]
            for row in http.post("/tokenize", json={"inputs": TEXTS}).json()
        ]
        same(http.post("/embed", json={"inputs": ids[0]}).json(), expected[:1])
