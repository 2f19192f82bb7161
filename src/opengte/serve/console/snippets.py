"""Code to copy: one call of a model in each protocol; the page fills in `$KEY` and `$URL`."""

from collections.abc import Sequence

_ENCODER = (
    (
        "Python: OpenAI's client",
        """from openai import OpenAI

client = OpenAI(base_url="$URL/v1", api_key="$KEY")
answer = client.embeddings.create(
    model="$MODEL",
    input=["What is a text embedding?"],
    extra_body={"input_type": "query"},
)
print(answer.data[0].embedding[:4], answer.usage.total_tokens)""",
    ),
    (
        "curl: OpenAI's protocol",
        """curl $URL/v1/embeddings \\
  -H "authorization: Bearer $KEY" -H "content-type: application/json" \\
  -d '{"model": "$MODEL", "input": ["What is a text embedding?"], "input_type": "query"}'""",
    ),
    (
        "Python: text-embeddings-inference",
        """from huggingface_hub import InferenceClient

client = InferenceClient(base_url="$URL", token="$KEY")
print(client.feature_extraction("What is a text embedding?").shape)""",
    ),
    (
        "Python: Cohere's client",
        """import cohere

client = cohere.ClientV2(base_url="$URL", api_key="$KEY")
answer = client.embed(
    model="$MODEL",
    texts=["What is a text embedding?"],
    input_type="search_query",
    embedding_types=["float"],
)""",
    ),
    (
        "Python: Voyage's client",
        """import voyageai

client = voyageai.Client(base_url="$URL/v1", api_key="$KEY")
answer = client.embed(["What is a text embedding?"], model="$MODEL", input_type="query")""",
    ),
    (
        "curl: Jina's protocol",
        """curl $URL/v1/embeddings \\
  -H "authorization: Bearer $KEY" -H "content-type: application/json" \\
  -d '{"model": "$MODEL", "input": ["What is a text embedding?"], "task": "retrieval.query"}'""",
    ),
    (
        "Python: Ollama's client",
        """from ollama import Client

client = Client("$URL", headers={"authorization": "Bearer $KEY"})
answer = client.embed(model="$MODEL", input=["What is a text embedding?"])""",
    ),
    (
        "curl: llama.cpp",
        """curl $URL/embedding \\
  -H "authorization: Bearer $KEY" -H "content-type: application/json" \\
  -d '{"model": "$MODEL", "content": "What is a text embedding?"}'""",
    ),
    (
        "Python: LangChain",
        """from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(
    model="$MODEL", base_url="$URL/v1", api_key="$KEY", check_embedding_ctx_length=False
)
vector = embeddings.embed_query("What is a text embedding?")""",
    ),
    (
        "Python: in your own process",
        """from opengte import Encoder

encoder = Encoder.load("$ID")
vectors = encoder.encode_query(["What is a text embedding?"])""",
    ),
)

_RERANKER = (
    (
        "curl: Jina's and Cohere's protocol",
        """curl $URL/v1/rerank \\
  -H "authorization: Bearer $KEY" -H "content-type: application/json" \\
  -d '{"model": "$MODEL", "query": "a sleeping cat", "documents": ["A kitten naps.", "Rain."]}'""",
    ),
    (
        "Python: Cohere's client",
        """import cohere

client = cohere.ClientV2(base_url="$URL", api_key="$KEY")
answer = client.rerank(
    model="$MODEL", query="a sleeping cat", documents=["A kitten naps.", "Rain."]
)""",
    ),
    (
        "Python: Voyage's client",
        """import voyageai

client = voyageai.Client(base_url="$URL/v1", api_key="$KEY")
answer = client.rerank("a sleeping cat", ["A kitten naps.", "Rain."], model="$MODEL")""",
    ),
    (
        "curl: text-embeddings-inference",
        """curl $URL/rerank \\
  -H "authorization: Bearer $KEY" -H "content-type: application/json" \\
  -d '{"query": "a sleeping cat", "texts": ["A kitten naps.", "Rain."]}'""",
    ),
    (
        "Python: in your own process",
        """from opengte import Reranker

reranker = Reranker.load("$ID")
ranked = reranker.rank("a sleeping cat", ["A kitten naps.", "Rain."])""",
    ),
)


def snippets(kind: str, name: str, id: str) -> Sequence[tuple[str, str]]:
    """Return the title and the code of each call."""
    known = _RERANKER if kind == "reranker" else _ENCODER
    return [(title, code.replace("$MODEL", name).replace("$ID", id)) for title, code in known]
