"""text-embeddings-inference: the types of its request and response bodies."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from opengte.serve.protocols.roles import InputType
from opengte.serve.protocols.schema import Count, Inputs, Texts, TokenId, exact_schema

Direction = Literal["Right", "Left", "right", "left"]


class TruncationFields(Struct, kw_only=True):
    """How over-long inputs are truncated; without `truncate`, the server's setting applies."""

    truncate: bool | None = None
    truncation_direction: Direction | None = None


class EmbedFields(TruncationFields, kw_only=True):
    """What all embedding routes take; the fields from `model` on are extensions of TEI."""

    inputs: Inputs
    prompt_name: str | None = None
    model: str | None = None
    input_type: InputType | None = None
    instruction: str | None = None
    partial: bool | None = None


class EmbedBody(EmbedFields, kw_only=True):
    """`POST /embed`."""

    normalize: bool | None = None
    dimensions: Count | None = None


class EmbedAllBody(EmbedFields, kw_only=True):
    """`POST /embed_all`."""


class EmbedSparseBody(EmbedFields, kw_only=True):
    """`POST /embed_sparse`."""


_TEXT = {"type": "string"}
_PAIR = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}


class PredictBody(TruncationFields, kw_only=True):
    """`POST /predict`: pairs, as a reranker takes them."""

    inputs: Annotated[
        str | list[str | list[str]],
        exact_schema(
            "A pair of texts [query, document], or a list of pairs.",
            anyOf=[_PAIR, {"type": "array", "minItems": 1, "items": _PAIR}],
        ),
    ]
    raw_scores: bool | None = None
    model: str | None = None


class RerankBody(TruncationFields, kw_only=True):
    """`POST /rerank`."""

    query: str
    texts: Annotated[list[str], exact_schema("Texts.", type="array", minItems=1, items=_TEXT)]
    raw_scores: bool | None = None
    return_text: bool | None = None
    model: str | None = None
    instruction: str | None = None


class Sentences(Struct, kw_only=True, forbid_unknown_fields=True):
    """One sentence, and the sentences to compare it with."""

    source_sentence: str
    sentences: Annotated[list[str], exact_schema("Texts.", type="array", minItems=1, items=_TEXT)]


class SimilarityParameters(TruncationFields, kw_only=True, forbid_unknown_fields=True):
    """How the sentences are embedded."""

    prompt_name: str | None = None


class SimilarityBody(Struct, kw_only=True):
    """`POST /similarity`."""

    inputs: Sentences
    parameters: SimilarityParameters | None = None
    model: str | None = None


class TokenizeBody(Struct, kw_only=True):
    """`POST /tokenize`."""

    inputs: Texts
    add_special_tokens: bool | None = None
    prompt_name: str | None = None
    model: str | None = None


class DecodeBody(Struct, kw_only=True):
    """`POST /decode`."""

    ids: Annotated[
        list[TokenId | list[TokenId]],
        exact_schema(
            "Token ids, or lists of them.",
            anyOf=[
                {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {"type": "array", "items": {"type": "integer", "minimum": 0}},
                },
            ],
        ),
    ]
    skip_special_tokens: bool | None = None
    model: str | None = None


class VertexEmbed(EmbedBody, tag_field="type", tag="embed"):
    """An instance for `/embed`."""


class VertexEmbedAll(EmbedAllBody, tag_field="type", tag="embed_all"):
    """An instance for `/embed_all`."""


class VertexEmbedSparse(EmbedSparseBody, tag_field="type", tag="embed_sparse"):
    """An instance for `/embed_sparse`."""


class VertexPredict(PredictBody, tag_field="type", tag="predict"):
    """An instance for `/predict`."""


class VertexRerank(RerankBody, tag_field="type", tag="rerank"):
    """An instance for `/rerank`."""


class VertexTokenize(TokenizeBody, tag_field="type", tag="tokenize"):
    """An instance for `/tokenize`."""


Instance = (
    VertexEmbed | VertexEmbedAll | VertexEmbedSparse | VertexPredict | VertexRerank | VertexTokenize
)


class VertexBody(Struct, kw_only=True):
    """`POST /vertex`."""

    instances: list[Instance]


class Weight(Struct):
    """One token of a sparse vector."""

    index: int
    value: float


class Prediction(Struct):
    """One class and its score."""

    score: float
    label: str


class Rank(Struct, kw_only=True):
    """One text, in the order of relevance."""

    index: int
    score: float
    text: str | UnsetType = UNSET


class TokenBody(Struct, kw_only=True):
    """One token; special tokens have no start and stop."""

    id: int
    text: str
    special: bool
    start: int | UnsetType = UNSET
    stop: int | UnsetType = UNSET


class Predictions(Struct):
    """The replies to the instances, in their order."""

    predictions: list[Any]


class Info(Struct, kw_only=True):
    """`GET /info`; model_sha is the model's fingerprint."""

    model_id: str
    model_sha: str | None
    model_dtype: str
    served_model_name: str
    model_type: dict[str, dict[str, Any]]
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None


class ErrorBody(Struct):
    """TEI's ErrorResponse."""

    error: str
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer", "Empty"]
