"""Use the server from the OpenAI client.

    gte serve
    pip install openai
    python openai_client.py

Only the address changes. `input_type` is an addition of this server: it selects the prompt that the
model was trained with for queries or documents.
"""

import argparse

from openai import OpenAI

DOCUMENTS = [
    "Binary floating point cannot represent one tenth exactly.",
    "A kitten takes a nap on the window sill.",
]


def rank(client: OpenAI, model: str, query: str, documents: list[str]) -> list[tuple[float, str]]:
    """Return the documents with their similarity to the query, best first."""

    def embed(texts: list[str], input_type: str) -> list[list[float]]:
        response = client.embeddings.create(
            model=model, input=texts, extra_body={"input_type": input_type}
        )
        return [item.embedding for item in response.data]

    (question,) = embed([query], "query")
    vectors = embed(documents, "document")
    # vectors are normalised: their inner product is the cosine similarity
    scores = [sum(a * b for a, b in zip(question, vector, strict=True)) for vector in vectors]
    return sorted(zip(scores, documents, strict=True), reverse=True)


def main() -> None:
    """Print the documents by similarity."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080/v1")
    parser.add_argument("--key", default="no key needed", help="made by `gte keys create`")
    parser.add_argument("--model", default="minilm")
    options = parser.parse_args()
    client = OpenAI(base_url=options.url, api_key=options.key)
    for score, text in rank(client, options.model, "why is 0.1 + 0.2 not 0.3?", DOCUMENTS):
        print(f"{score:.3f}  {text}")


if __name__ == "__main__":
    main()
