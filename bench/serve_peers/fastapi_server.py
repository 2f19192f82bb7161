"""What people write themselves: FastAPI in front of sentence-transformers.

    python -m serve_peers.fastapi_server FOLDER PORT

A route that is not async, so that FastAPI runs it in its threads, as its documentation has it.
"""

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

app = FastAPI()
model = SentenceTransformer(sys.argv[1], device="cpu")


class Body(BaseModel):
    """OpenAI's request."""

    input: str | list[str]
    model: str = ""
    encoding_format: str = "float"


@app.post("/v1/embeddings")
def embeddings(body: Body) -> dict[str, object]:
    """Embed texts."""
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors = model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist()}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": body.model, "usage": {}}


@app.get("/ready")
def ready() -> dict[str, str]:
    """Answer when the model is loaded."""
    return {}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
