"""Retrieve with an encoder, then reorder the best hits with a reranker.

The encoder compares vectors, which is fast. The reranker reads the query and each document
together, which is accurate. So the encoder picks candidates, and the reranker orders them.
"""

import argparse

from opengte import Encoder, Ranked, Reranker

DOCUMENTS = [
    "Binary floating point cannot represent one tenth exactly.",
    "The float type stores numbers with 53 bits of precision.",
    "Default values of arguments are evaluated once, when the function is defined.",
    "A kitten takes a nap on the window sill.",
    "Use math.isclose to compare floating-point numbers.",
]


def retrieve_and_rerank(
    query: str,
    documents: list[str],
    *,
    encoder: Encoder,
    reranker: Reranker,
    candidates: int = 50,
    top_k: int = 3,
) -> list[Ranked]:
    """Return the best documents; `index` counts in `documents`."""
    vectors = encoder.encode_document(documents)
    scores = encoder.similarity(encoder.encode_query(query), vectors)[0]
    best = [int(i) for i in scores.argsort()[::-1][:candidates]]
    hits = reranker.rank(query, [documents[i] for i in best], top_k)
    return [Ranked(best[hit.index], hit.score, hit.text) for hit in hits]


def main() -> None:
    """Print the best documents for a query."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("query", nargs="?", default="why is 0.1 + 0.2 not equal to 0.3?")
    parser.add_argument("--encoder", default="minilm")
    parser.add_argument("--reranker", default="BAAI/bge-reranker-base")
    options = parser.parse_args()
    hits = retrieve_and_rerank(
        options.query,
        DOCUMENTS,
        encoder=Encoder.load(options.encoder),
        reranker=Reranker.load(options.reranker),
    )
    for hit in hits:
        print(f"{hit.score:8.3f}  {hit.text}")


if __name__ == "__main__":
    main()
