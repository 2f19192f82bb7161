"""text-embeddings-inference: its routes, headers and errors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opengte.errors import InputError, NotReadyError
from opengte.serve.protocols import tei_schemas as bodies
from opengte.serve.protocols.base import (
    DecodeRequest,
    Dialect,
    Exchange,
    Failure,
    Kind,
    Operation,
    Policy,
    TokenizeRequest,
    Work,
)
from opengte.serve.protocols.encodings import Rows, dense, inputs_of, ranked, require, texts_of
from opengte.serve.protocols.roles import role_of
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, ScoreRequest, Token
from opengte.types import Output, TruncationSide

STATUSES: dict[Kind, int] = {
    "malformed": 400,
    "invalid": 422,
    "too_long": 422,
    "too_large": 413,
    "media_type": 415,
    "unsupported": 424,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown_model": 404,
    "not_found": 404,
    "method": 405,
    "limited": 429,
    "overloaded": 429,
    "not_ready": 503,
    "deadline": 504,
    "engine": 424,
    "internal": 500,
}

TYPES: dict[Kind, str] = {
    "unsupported": "Backend",
    "limited": "Overloaded",
    "overloaded": "Overloaded",
    "not_ready": "Unhealthy",
    "deadline": "Overloaded",
    "engine": "Backend",
    "internal": "Backend",
}

EMPTY = "is empty; expected at least one."


def error(failure: Failure, policy: Policy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    kind = TYPES.get(failure.kind, "Validation")
    status = STATUSES[failure.kind]
    if failure.kind in ("invalid", "too_long"):
        status = policy.tei_validation_status
    if failure.kind == "invalid" and failure.message.endswith(EMPTY):
        status, kind = 400, "Empty"
    return status, {"error": failure.message, "error_type": kind}


DIALECT = Dialect("tei", error, bodies.ErrorBody, STATUSES)


def _side(body: bodies.Cut, exchange: Exchange) -> TruncationSide:
    truncate = exchange.policy.auto_truncate if body.truncate is None else body.truncate
    if not truncate:
        return "error"
    return "left" if (body.truncation_direction or "").lower() == "left" else "right"


def _embed(body: bodies.Prompted, exchange: Exchange, output: Output, **more: Any) -> EmbedRequest:
    require(body.inputs, "inputs")
    return EmbedRequest(
        model=body.model,
        inputs=inputs_of(body.inputs, "inputs"),
        role=role_of(body.input_type),
        instruction=body.instruction,
        prompt_name=body.prompt_name,
        outputs=(output,),
        truncation=_side(body, exchange),
        partial=body.partial is True,
        **more,
    )


def embed_request(body: bodies.EmbedBody, exchange: Exchange) -> EmbedRequest:
    """Return what `/embed` asks."""
    return _embed(
        body,
        exchange,
        "dense",
        dimensions=body.dimensions,
        normalize=body.normalize is not False,
    )


def embed_all_request(body: bodies.EmbedAllBody, exchange: Exchange) -> EmbedRequest:
    """Return what `/embed_all` asks: the final states of all tokens."""
    return _embed(body, exchange, "states")


def embed_sparse_request(body: bodies.EmbedSparseBody, exchange: Exchange) -> EmbedRequest:
    """Return what `/embed_sparse` asks."""
    return _embed(body, exchange, "sparse")


def similarity_request(body: bodies.SimilarityBody, exchange: Exchange) -> EmbedRequest:
    """Return what `/similarity` asks: the source sentence first."""
    require(body.inputs.sentences, "inputs.sentences")
    parameters = body.parameters or bodies.SimilarityParameters()
    return EmbedRequest(
        model=body.model,
        inputs=(body.inputs.source_sentence, *body.inputs.sentences),
        prompt_name=parameters.prompt_name,
        truncation=_side(parameters, exchange),
    )


def _is_batch(inputs: str | list[str | list[str]]) -> bool:
    return not isinstance(inputs, str) and bool(inputs) and isinstance(inputs[0], list)


def predict_request(body: bodies.PredictBody, exchange: Exchange) -> ScoreRequest:
    """Return what `/predict` asks; InputError on what is no pair."""
    require(body.inputs, "inputs")
    items: Sequence[Any] = body.inputs if _is_batch(body.inputs) else [body.inputs]
    pairs = []
    for index, item in enumerate(items):
        if isinstance(item, str) or len(item) != 2 or not all(isinstance(t, str) for t in item):
            where = f"inputs[{index}]" if _is_batch(body.inputs) else "inputs"
            raise InputError(
                f"{where} is not a pair of texts; expected [query, document], because the models "
                "here that give scores are rerankers."
            )
        pairs.append((item[0], item[1]))
    return ScoreRequest(
        model=body.model,
        pairs=tuple(pairs),
        truncation=_side(body, exchange),
        sigmoid=body.raw_scores is not True,
    )


def rerank_request(body: bodies.RerankBody, exchange: Exchange) -> ScoreRequest:
    """Return what `/rerank` asks."""
    require(body.texts, "texts")
    return ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in body.texts),
        instruction=body.instruction,
        truncation=_side(body, exchange),
        sigmoid=body.raw_scores is not True,
    )


def tokenize_request(body: bodies.TokenizeBody, exchange: Exchange) -> TokenizeRequest:
    """Return what `/tokenize` asks."""
    require(body.inputs, "inputs")
    return TokenizeRequest(
        model=body.model,
        texts=texts_of(body.inputs),
        add_special=body.add_special_tokens is not False,
        prompt_name=body.prompt_name,
    )


def decode_request(body: bodies.DecodeBody, exchange: Exchange) -> DecodeRequest:
    """Return what `/decode` asks."""
    require(body.ids, "ids")
    rows: Any = body.ids if isinstance(body.ids[0], list) else [body.ids]
    for index, row in enumerate(rows):
        if not isinstance(row, list) or any(isinstance(item, list) for item in row):
            raise InputError(
                f"ids[{index}] mixes ids and lists; expected ids, or lists of ids only."
            )
    return DecodeRequest(
        model=body.model,
        ids=tuple(tuple(row) for row in rows),
        skip_special=body.skip_special_tokens is not False,
    )


def embed_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return vectors; null where an input failed and `partial` was asked for."""
    return Rows(dense(answer))


def embed_all_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return one matrix a text."""
    return Rows(answer.states or ())


def embed_sparse_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return the weights of each text, token ids ascending."""
    return Rows(
        row if row is None else [{"index": token, "value": row[token]} for token in sorted(row)]
        for row in answer.sparse or ()
    )


def similarity_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return the cosine of the source sentence with each other."""
    source, *others = dense(answer)
    assert source is not None
    return np.stack([row for row in others if row is not None]) @ source


def predict_content(body: bodies.PredictBody, answer: ScoreAnswer) -> Any:
    """Return each pair's one class and its score."""
    rows = [[{"score": score, "label": "LABEL_0"}] for score in answer.scores]
    return rows if _is_batch(body.inputs) else rows[0]


def rerank_content(body: bodies.RerankBody, answer: ScoreAnswer) -> Any:
    """Return the texts, best first."""
    rows: list[dict[str, Any]] = []
    for index, score in ranked(answer.scores):
        row: dict[str, Any] = {"index": index, "score": score}
        if body.return_text:
            row["text"] = body.texts[index]
        rows.append(row)
    return rows


def tokenize_content(body: Any, answer: list[list[Token]]) -> Any:
    """Return the tokens of each text."""
    return [[_token(token) for token in row] for row in answer]


def _token(token: Token) -> dict[str, Any]:
    row: dict[str, Any] = {"id": token.id, "text": token.text, "special": token.special}
    if token.start is not None:
        row.update(start=token.start, stop=token.stop)
    return row


def decode_content(body: Any, answer: list[str]) -> Any:
    """Return the texts."""
    return answer


def headers(work: Work, answers: Sequence[Any], seconds: float) -> tuple[tuple[str, str], ...]:
    """Return TEI's headers: whole milliseconds, which is what it has; Server-Timing has more."""
    scored = [each for each in answers if isinstance(each, EmbedAnswer | ScoreAnswer)]
    if not scored:
        return ()
    total = str(int(seconds * 1000))

    def slowest(stage: str) -> str:
        return str(int(1000 * max(getattr(each.timing, stage) for each in scored)))

    return (
        ("x-compute-type", scored[0].model.device or "cpu"),
        ("x-compute-time", total),
        ("x-compute-characters", str(sum(_characters(each) for each in work.requests))),
        ("x-compute-tokens", str(sum(int(sum(each.token_counts)) for each in scored))),
        ("x-total-time", total),
        ("x-tokenization-time", slowest("tokenizing")),
        ("x-queue-time", slowest("queued")),
        ("x-inference-time", slowest("computing")),
    )


def _characters(request: Any) -> int:
    if isinstance(request, EmbedRequest):
        return sum(len(item) for item in request.inputs if isinstance(item, str))
    if isinstance(request, ScoreRequest):
        return sum(len(query) + len(text) for query, text in request.pairs)
    return 0


def info_reply(body: None, answers: tuple[()], exchange: Exchange) -> Any:
    """Return the first model's facts and the server's limits; NotReadyError until it is loaded."""
    status = exchange.models()[0]
    card = status.card
    if card is None:
        raise NotReadyError(f"The model `{status.name}` is {status.state}. Try again later.")
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    encoder = card.kind == "encoder"
    policy = exchange.policy
    return {
        "model_id": card.source,
        "model_sha": card.fingerprint,
        "model_dtype": card.precision or card.stored_dtype,
        "served_model_name": status.name,
        "model_type": {"embedding": {"pooling": card.pooling}} if encoder else {"reranker": labels},
        "max_concurrent_requests": policy.max_concurrent_requests,
        "max_input_length": card.max_length,
        "max_batch_tokens": status.max_batch_tokens or card.max_length,
        "max_batch_requests": None,
        "max_client_batch_size": policy.max_inputs,
        "auto_truncate": policy.auto_truncate,
        "tokenization_workers": card.threads or 1,
        "version": policy.version,
        "sha": None,
        "docker_label": None,
    }


# name -> (its request, the body of its answer)
Part = tuple[Callable[[Any, Exchange], Any], Callable[[Any, Any], Any]]
PARTS: dict[str, Part] = {
    "embed": (embed_request, embed_content),
    "embed_all": (embed_all_request, embed_all_content),
    "embed_sparse": (embed_sparse_request, embed_sparse_content),
    "predict": (predict_request, predict_content),
    "rerank": (rerank_request, rerank_content),
    "similarity": (similarity_request, similarity_content),
    "tokenize": (tokenize_request, tokenize_content),
    "decode": (decode_request, decode_content),
}


def _tag(instance: Any) -> str:
    return str(instance.__struct_config__.tag)


def vertex_requests(body: bodies.VertexBody, exchange: Exchange) -> Work:
    """Return the request of each instance."""
    require(body.instances, "instances")
    return Work(tuple(PARTS[_tag(each)][0](each, exchange) for each in body.instances))


def vertex_reply(body: bodies.VertexBody, answers: tuple[Any, ...], exchange: Exchange) -> Any:
    """Return the answer to each instance."""
    predictions = [
        PARTS[_tag(each)][1](each, answer)
        for each, answer in zip(body.instances, answers, strict=True)
    ]
    return {"predictions": predictions}


def _operation(name: str, summary: str, body: Any, answer: Any) -> Operation:
    request, content = PARTS[name]

    def requests(body: Any, exchange: Exchange) -> Work:
        given = getattr(body, "input_type", None) is not None or not name.startswith("embed")
        return Work((request(body, exchange),), role_given=given)

    def reply(body: Any, answers: tuple[Any, ...], exchange: Exchange) -> Any:
        return content(body, answers[0])

    return Operation(
        id=f"tei_{name}",
        dialect=DIALECT,
        method="POST",
        paths=(f"/{name}",),
        summary=summary,
        body=body,
        answer=answer,
        requests=requests,
        reply=reply,
        headers=headers,
    )


EMBED = _operation("embed", "Embed texts", bodies.EmbedBody, list[list[float] | None])
EMBED_ALL = _operation(
    "embed_all",
    "Vectors of all tokens",
    bodies.EmbedAllBody,
    list[list[list[float]] | None],
)
EMBED_SPARSE = _operation(
    "embed_sparse",
    "Sparse vectors",
    bodies.EmbedSparseBody,
    list[list[bodies.Weight] | None],
)
PREDICT = _operation(
    "predict",
    "Scores of pairs",
    bodies.PredictBody,
    list[bodies.Prediction | list[bodies.Prediction]],
)
RERANK = _operation("rerank", "Order texts by relevance", bodies.RerankBody, list[bodies.Rank])
SIMILARITY = _operation(
    "similarity", "Compare a sentence with others", bodies.SimilarityBody, list[float]
)
TOKENIZE = _operation(
    "tokenize", "Texts to tokens", bodies.TokenizeBody, list[list[bodies.TokenBody]]
)
DECODE = _operation("decode", "Token ids to texts", bodies.DecodeBody, list[str])

OPERATIONS = (
    EMBED,
    EMBED_ALL,
    EMBED_SPARSE,
    PREDICT,
    RERANK,
    SIMILARITY,
    TOKENIZE,
    DECODE,
    Operation(
        id="tei_vertex",
        dialect=DIALECT,
        method="POST",
        paths=("/vertex",),
        summary="Several requests in one (Vertex AI)",
        body=bodies.VertexBody,
        answer=bodies.Predictions,
        requests=vertex_requests,
        reply=vertex_reply,
        headers=headers,
    ),
    Operation(
        id="tei_info",
        dialect=DIALECT,
        method="GET",
        paths=("/info",),
        summary="The model served and the server's limits",
        answer=bodies.Info,
        reply=info_reply,
    ),
)
