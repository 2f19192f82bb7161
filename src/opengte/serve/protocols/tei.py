"""text-embeddings-inference: its routes, headers and errors."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opengte.errors import InputError, NotReadyError, UnknownModelError
from opengte.serve.protocols import tei_schemas as bodies
from opengte.serve.protocols.base import (
    DecodeRequest,
    ErrorKind,
    Operation,
    ParsedRequest,
    ProtocolPolicy,
    RequestFailure,
    RequestInfo,
    TokenizeRequest,
    WireProtocol,
)
from opengte.serve.protocols.encodings import (
    LazyArray,
    dense_vectors,
    inputs_of,
    ranked,
    require_values,
    texts_of,
)
from opengte.serve.protocols.roles import role_of
from opengte.serve.types import EmbedAnswer, EmbedRequest, ScoreAnswer, ScoreRequest, Token
from opengte.types import Output, TruncationSide

TYPES: dict[ErrorKind, str] = {
    "unsupported": "Backend",
    "limited": "Overloaded",
    "overloaded": "Overloaded",
    "not_ready": "Unhealthy",
    "deadline": "Overloaded",
    "engine": "Backend",
    "internal": "Backend",
}

EMPTY = "is empty; expected at least one."  # how `require_values` ends its messages


def _error(failure: RequestFailure, policy: ProtocolPolicy) -> tuple[int, Any]:
    """Return the status and body of a failure."""
    kind = TYPES.get(failure.kind, "Validation")
    status = PROTOCOL.status(failure.kind)
    if failure.kind in ("invalid", "too_long"):
        status = policy.tei_validation_status
    if failure.kind == "invalid" and failure.message.endswith(EMPTY):
        status, kind = 400, "Empty"
    return status, {"error": failure.message, "error_type": kind}


PROTOCOL = WireProtocol(
    "tei",
    _error,
    bodies.ErrorBody,
    own_statuses={
        "invalid": 422,
        "too_long": 422,
        "unsupported": 424,
        "overloaded": 429,
        "engine": 424,
    },
)


def _side(body: bodies.TruncationFields, info: RequestInfo) -> TruncationSide:
    truncate = info.policy.auto_truncate if body.truncate is None else body.truncate
    if not truncate:
        return "error"
    return "left" if (body.truncation_direction or "").lower() == "left" else "right"


def _embed(
    body: bodies.EmbedFields, info: RequestInfo, output: Output, **more: Any
) -> EmbedRequest:
    require_values(body.inputs, "inputs")
    return EmbedRequest(
        model=body.model,
        inputs=inputs_of(body.inputs, "inputs"),
        role=role_of(body.input_type),
        instruction=body.instruction,
        prompt_name=body.prompt_name,
        outputs=(output,),
        truncation=_side(body, info),
        partial=body.partial is True,
        **more,
    )


def _embed_request(body: bodies.EmbedBody, info: RequestInfo) -> EmbedRequest:
    """Parse `/embed`."""
    return _embed(
        body,
        info,
        "dense",
        dimensions=body.dimensions,
        normalize=body.normalize is not False,
    )


def _embed_all_request(body: bodies.EmbedAllBody, info: RequestInfo) -> EmbedRequest:
    """Parse `/embed_all`: the final states of all tokens."""
    return _embed(body, info, "states")


def _embed_sparse_request(body: bodies.EmbedSparseBody, info: RequestInfo) -> EmbedRequest:
    """Parse `/embed_sparse`."""
    return _embed(body, info, "sparse")


def _similarity_request(body: bodies.SimilarityBody, info: RequestInfo) -> EmbedRequest:
    """Parse `/similarity`; the source sentence is the first input."""
    require_values(body.inputs.sentences, "inputs.sentences")
    parameters = body.parameters or bodies.SimilarityParameters()
    return EmbedRequest(
        model=body.model,
        inputs=(body.inputs.source_sentence, *body.inputs.sentences),
        prompt_name=parameters.prompt_name,
        truncation=_side(parameters, info),
    )


def _is_batch(inputs: str | list[str | list[str]]) -> bool:
    return not isinstance(inputs, str) and bool(inputs) and isinstance(inputs[0], list)


def _predict_request(body: bodies.PredictBody, info: RequestInfo) -> ScoreRequest:
    """Parse `/predict`; InputError for an item that is not a pair of texts."""
    require_values(body.inputs, "inputs")
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
        truncation=_side(body, info),
        sigmoid=body.raw_scores is not True,
    )


def _rerank_request(body: bodies.RerankBody, info: RequestInfo) -> ScoreRequest:
    """Parse `/rerank`."""
    require_values(body.texts, "texts")
    return ScoreRequest(
        model=body.model,
        pairs=tuple((body.query, text) for text in body.texts),
        instruction=body.instruction,
        truncation=_side(body, info),
        sigmoid=body.raw_scores is not True,
    )


def _tokenize_request(body: bodies.TokenizeBody, info: RequestInfo) -> TokenizeRequest:
    """Parse `/tokenize`."""
    require_values(body.inputs, "inputs")
    return TokenizeRequest(
        model=body.model,
        texts=texts_of(body.inputs),
        add_special=body.add_special_tokens is not False,
        prompt_name=body.prompt_name,
    )


def _decode_request(body: bodies.DecodeBody, info: RequestInfo) -> DecodeRequest:
    """Parse `/decode`."""
    require_values(body.ids, "ids")
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


def _embed_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return the vectors; null for an input that failed, if the request has `partial`."""
    return LazyArray(dense_vectors(answer))


def _embed_all_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return one matrix for each text."""
    return LazyArray(answer.states or ())


def _embed_sparse_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return the weights of each text, by ascending token id."""
    return LazyArray(
        row if row is None else [{"index": token, "value": row[token]} for token in sorted(row)]
        for row in answer.sparse or ()
    )


def _similarity_content(body: Any, answer: EmbedAnswer) -> Any:
    """Return the cosine similarity of the source sentence with each of the others."""
    source, *others = dense_vectors(answer)
    assert source is not None
    return np.stack([row for row in others if row is not None]) @ source


def _predict_content(body: bodies.PredictBody, answer: ScoreAnswer) -> Any:
    """Return the one class of each pair with its score."""
    rows = [[{"score": score, "label": "LABEL_0"}] for score in answer.scores]
    return rows if _is_batch(body.inputs) else rows[0]


def _rerank_content(body: bodies.RerankBody, answer: ScoreAnswer) -> Any:
    """Return the texts, best first."""
    rows: list[dict[str, Any]] = []
    for index, score in ranked(answer.scores):
        row: dict[str, Any] = {"index": index, "score": score}
        if body.return_text:
            row["text"] = body.texts[index]
        rows.append(row)
    return rows


def _tokenize_content(body: Any, answer: list[list[Token]]) -> Any:
    """Return the tokens of each text."""
    return [[_token(token) for token in row] for row in answer]


def _token(token: Token) -> dict[str, Any]:
    row: dict[str, Any] = {"id": token.id, "text": token.text, "special": token.special}
    if token.start is not None:
        row.update(start=token.start, stop=token.stop)
    return row


def _decode_content(body: Any, answer: list[str]) -> Any:
    """Return the texts."""
    return answer


def _headers(
    parsed: ParsedRequest, answers: Sequence[Any], seconds: float
) -> tuple[tuple[str, str], ...]:
    """Return TEI's headers: whole milliseconds, as TEI has them; Server-Timing is more exact."""
    scored = [each for each in answers if isinstance(each, EmbedAnswer | ScoreAnswer)]
    if not scored:
        return ()
    total = str(int(seconds * 1000))

    def slowest(stage: str) -> str:
        return str(int(1000 * max(getattr(each.timing, stage) for each in scored)))

    return (
        ("x-compute-type", scored[0].model.device or "cpu"),
        ("x-compute-time", total),
        ("x-compute-characters", str(sum(_characters(each) for each in parsed.requests))),
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


def _info_reply(body: None, answers: tuple[()], info: RequestInfo) -> Any:
    """Return facts of the first model and the server's limits; NotReadyError until it is loaded."""
    statuses = info.models()
    if not statuses:
        raise UnknownModelError("The API key may use none of the models here.")
    status = statuses[0]
    card = status.card
    if card is None:
        raise NotReadyError(f"The model `{status.name}` is {status.state}. Try again later.", 2.0)
    labels = {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    encoder = card.kind == "encoder"
    policy = info.policy
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


# route -> (its parser, the content of its reply)
_Codec = tuple[Callable[[Any, RequestInfo], Any], Callable[[Any, Any], Any]]
_CODECS: dict[str, _Codec] = {
    "embed": (_embed_request, _embed_content),
    "embed_all": (_embed_all_request, _embed_all_content),
    "embed_sparse": (_embed_sparse_request, _embed_sparse_content),
    "predict": (_predict_request, _predict_content),
    "rerank": (_rerank_request, _rerank_content),
    "similarity": (_similarity_request, _similarity_content),
    "tokenize": (_tokenize_request, _tokenize_content),
    "decode": (_decode_request, _decode_content),
}


def _tag(instance: Any) -> str:
    return str(instance.__struct_config__.tag)


def _parse_vertex(body: bodies.VertexBody, info: RequestInfo) -> ParsedRequest:
    """Parse each instance."""
    require_values(body.instances, "instances")
    return ParsedRequest(tuple(_CODECS[_tag(each)][0](each, info) for each in body.instances))


def _vertex_reply(body: bodies.VertexBody, answers: tuple[Any, ...], info: RequestInfo) -> Any:
    """Return the reply to each instance."""
    predictions = [
        _CODECS[_tag(each)][1](each, answer)
        for each, answer in zip(body.instances, answers, strict=True)
    ]
    return {"predictions": predictions}


def _operation(name: str, summary: str, body: Any, answer: Any) -> Operation:
    parse_request, content = _CODECS[name]

    def parse(body: Any, info: RequestInfo) -> ParsedRequest:
        given = getattr(body, "input_type", None) is not None or not name.startswith("embed")
        return ParsedRequest((parse_request(body, info),), role_given=given)

    def reply(body: Any, answers: tuple[Any, ...], info: RequestInfo) -> Any:
        return content(body, answers[0])

    return Operation(
        id=f"tei_{name}",
        protocol=PROTOCOL,
        method="POST",
        paths=(f"/{name}",),
        summary=summary,
        body=body,
        answer=answer,
        parse=parse,
        reply=reply,
        headers=_headers,
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
        protocol=PROTOCOL,
        method="POST",
        paths=("/vertex",),
        summary="Several requests in one (Vertex AI)",
        body=bodies.VertexBody,
        answer=bodies.Predictions,
        parse=_parse_vertex,
        reply=_vertex_reply,
        headers=_headers,
    ),
    Operation(
        id="tei_info",
        protocol=PROTOCOL,
        method="GET",
        paths=("/info",),
        summary="The model served and the server's limits",
        answer=bodies.Info,
        reply=_info_reply,
    ),
)
