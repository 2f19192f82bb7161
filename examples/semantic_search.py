"""Semantic search over a folder of Markdown files: FOLDER QUESTION."""

import sys
from pathlib import Path

from opengte import Encoder


def search(folder: str, question: str, model: str = "minilm", top_k: int = 3) -> list[str]:
    """Return the paragraphs that answer the question best."""
    files = sorted(Path(folder).rglob("*.md"))
    paragraphs = [part for file in files for part in file.read_text("utf-8").split("\n\n")]
    encoder = Encoder.load(model)
    vectors = encoder.encode_document(paragraphs)  # (paragraphs, 384)
    scores = encoder.similarity(encoder.encode_query(question), vectors)[0]
    return [f"{scores[i]:.3f}  {paragraphs[i]}" for i in scores.argsort()[::-1][:top_k]]


if __name__ == "__main__":
    print("\n\n".join(search(*sys.argv[1:])))
