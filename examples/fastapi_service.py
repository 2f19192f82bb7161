"""An encoder inside your own FastAPI service.

    pip install fastapi uvicorn
    uvicorn fastapi_service:app
    curl localhost:8000/embed -H 'content-type: application/json' -d '{"texts": ["a cat"]}'

One `Encoder` serves all requests: it is safe to use from several threads. FastAPI runs functions
that are not `async` in a thread pool, so computing does not block the event loop. `gte serve` also
batches concurrent requests together; use it when many clients call at once.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from opengte import Encoder
from opengte.errors import InputError


class EmbedRequest(BaseModel):
    """Texts to embed, and which side of a search they are for."""

    texts: list[str] = Field(min_length=1, max_length=256)
    role: Literal["query", "document"] | None = None


class EmbedResponse(BaseModel):
    """One vector for each text, and the indices of texts that were too long and were cut."""

    vectors: list[list[float]]
    truncated: list[int]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model once, before the first request."""
    app.state.encoder = Encoder.load(os.environ.get("MODEL", "minilm"))
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
def embed(body: EmbedRequest, request: Request) -> EmbedResponse:
    """Embed texts."""
    encoder: Encoder = request.app.state.encoder
    try:
        result = encoder.embed(body.texts, role=body.role)
    except InputError as error:
        raise HTTPException(422, str(error)) from error
    assert result.dense is not None
    return EmbedResponse(
        vectors=result.dense.tolist(), truncated=[record.index for record in result.truncated]
    )
