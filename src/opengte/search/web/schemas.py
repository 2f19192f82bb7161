"""Requests and responses of the search API: one type each, which the OpenAPI document shows too.

A request is checked field by field, so that an error names the field and what was expected of it.
"""

import json
from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, inspect

from opengte.errors import InputError
from opengte.search.analysis.facets import FacetKind
from opengte.search.retrieval.fusion import Fusion, FusionMethod
from opengte.search.retrieval.search import Leg

MAX_QUERY = 8_000  # characters of a query
MAX_RESULTS = 100
MAX_DEPTH = 32  # lists and objects inside each other

T = TypeVar("T", bound=Struct)

Query = Annotated[str, Meta(min_length=1, max_length=MAX_QUERY)]
DocumentId = Annotated[str, Meta(min_length=1, max_length=16_384)]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="Name of a knowledge base; the first one if left out.",
    ),
]
Where = Annotated[
    Mapping[str, Any],
    Meta(
        description='Conditions on metadata: {"year": {"$gte": 2020}, "lang": "de"}, with $eq '
        "$ne $lt $lte $gt $gte $in $nin $starts $contains $and $or $not."
    ),
]
ResultCount = Annotated[int, Meta(ge=1, le=MAX_RESULTS)]
Count = Annotated[int, Meta(ge=0)]
Place = Annotated[int, Meta(ge=0, le=2**53)]
Range = Annotated[list[int], Meta(description="From and to, in characters.")]


# --- requests ------------------------------------------------------------------------------------


class SearchRequest(Struct, frozen=True):
    """A query, and how to answer it; see `retrieval.search.SearchOptions`."""

    query: Query
    kb: Name | None = None
    k: ResultCount = 10
    where: Where = {}
    legs: tuple[Leg, ...] | None = None
    fusion: FusionMethod = "weighted"
    weights: Mapping[str, float] = {}
    exact: bool = False
    diversity: Annotated[float, Meta(ge=0, le=1)] = 0.0
    rerank: bool = False

    def options(self) -> dict[str, Any]:
        """Return the options of `KnowledgeBase.search`; InputError for what they cannot be."""
        fusion = Fusion(self.fusion, dict(self.weights))
        legs = {} if self.legs is None else {"legs": self.legs}
        return {"fusion": fusion, "exact": self.exact, "diversity": self.diversity, **legs}


class DocumentRequest(Struct, frozen=True):
    """A document, the query that it should answer, and a character that must be in the response."""

    id: DocumentId
    kb: Name | None = None
    query: Query | None = None
    at: Place | None = None


class NearRequest(Struct, frozen=True):
    """A document whose nearest neighbours are wanted."""

    id: DocumentId
    kb: Name | None = None
    k: ResultCount = 8
    where: Where = {}


class ProblemsRequest(Struct, frozen=True):
    """The files of a knowledge base that are not, or not wholly, in it."""

    kb: Name | None = None


class FilterRequest(Struct, frozen=True):
    """All documents that match a filter."""

    kb: Name | None = None
    where: Where = {}


# --- responses -----------------------------------------------------------------------------------


class KnowledgeBaseStatus(Struct):
    """A knowledge base, as `/status` lists it."""

    name: str
    documents: Count
    model: str
    legs: list[str]
    reranker: bool
    language: str | None


class StatusResponse(Struct):
    """Every knowledge base that the caller may search."""

    version: str
    knowledge_bases: list[KnowledgeBaseStatus]
    links: dict[str, str]


class PassageResponse(Struct):
    """A passage, and the words in it that the query has too."""

    start: Count
    end: Count
    text: str
    heading: str
    score: float | None
    marks: list[Range]


class LegResponse(Struct):
    """Where a leg ranked a document, from 1, and its score."""

    rank: Count
    score: float | None


class HitResponse(Struct):
    """A document of an answer."""

    rank: Count
    id: str
    title: str
    title_marks: list[Range]
    score: Annotated[float | None, Meta(description="Orders, and means nothing else.")]
    rerank: float | None
    legs: Annotated[
        dict[str, LegResponse],
        Meta(
            description="Rank and score in each way of searching; null where a score would tell of "
            "documents that this key may not see."
        ),
    ]
    passage: PassageResponse
    source: str
    line: Count | None
    metadata: dict[str, Any]
    duplicates: list[str]
    confidence: Annotated[float, Meta(description="Where the index is calibrated.")] | UnsetType = (
        UNSET
    )


class SearchResponse(Struct):
    """The hits, best first, and what happened on the way."""

    kb: str
    query: str
    hits: list[HitResponse]
    candidates: dict[str, Count]
    milliseconds: dict[str, float]
    underfilled: bool
    notes: list[str]
    threshold: (
        Annotated[float, Meta(description="Below it, probably nothing here answers that.")]
        | UnsetType
    ) = UNSET
    confidence: (
        Annotated[float, Meta(description="That an answer is among the hits.")] | UnsetType
    ) = UNSET


class SectionResponse(Struct):
    """A heading, and the character where its section starts."""

    start: Count
    title: str


class PassageBounds(Struct):
    """Where the passage is that answers a query."""

    start: Count
    end: Count
    heading: str


class DocumentResponse(Struct):
    """A document, or a part of a long one."""

    kb: str
    id: str
    title: str
    source: str
    line: Count | None
    metadata: dict[str, Any]
    warnings: list[str]
    truncated: bool
    indexed: float
    windows: Count
    tokens: Count
    characters: Annotated[int, Meta(ge=0, description="Of the whole document.")]
    start: Annotated[int, Meta(ge=0, description="Where the text that is sent begins in it.")]
    text: str
    sections: list[SectionResponse]
    passage: PassageBounds | None
    marks: list[Range]


class NeighbourResponse(Struct):
    """A document near another one; similarity is the cosine of their vectors."""

    rank: Count
    id: str
    title: str
    similarity: float
    passage: PassageResponse
    source: str
    line: Count | None
    metadata: dict[str, Any]


class NearResponse(Struct):
    """The nearest neighbours of a document."""

    kb: str
    id: str
    title: str
    hits: list[NeighbourResponse]


class ProblemGroupResponse(Struct):
    """Files that share a reason; the first of them by name, and how many there are."""

    kind: Annotated[str, Meta(description="failed, skipped or warning")]
    reason: str
    files: Count
    places: list[str]


class ProblemsResponse(Struct):
    """Files that failed, were skipped or are doubtful, by reason."""

    kb: str
    groups: list[ProblemGroupResponse]


class ValueCount(Struct):
    """A value of a field, and how many documents have it."""

    value: Any
    documents: Count


class FacetResponse(Struct):
    """What a field can be limited to; see `analysis.facets.Facet`."""

    field: str
    kind: FacetKind
    documents: Count
    values: list[ValueCount]
    others: Count
    low: Any
    high: Any


class FacetsResponse(Struct):
    """The facets of the documents that match."""

    kb: str
    documents: Count
    counted: Annotated[int, Meta(ge=0, description="Documents whose values were counted.")]
    total: Count
    facets: list[FacetResponse]


class RegionResponse(Struct):
    """A group of documents on the map, and its most typical one."""

    name: str
    documents: Count
    medoid: str


class MapResponse(Struct):
    """Where documents lie on the map, and which of them match; by their places in `ids`."""

    kb: str
    total: Count
    ids: list[str]
    titles: list[str]
    x: list[float]
    y: list[float]
    regions: list[RegionResponse]
    labels: Annotated[list[int], Meta(description="Of regions; -1 is none.")]
    fitting: list[Count] | None


class SearchErrorDetail(Struct):
    """What went wrong."""

    message: str
    type: str
    param: Any
    code: str


class ErrorResponse(Struct):
    """The body of every response that is no success."""

    error: SearchErrorDetail


# --- decoding ------------------------------------------------------------------------------------


def decode_request(kind: type[T], body: bytes) -> T:
    """Return the request in a JSON body, in which null means absent; InputError says what is wrong.

    msgspec's own decoder is not used: its messages do not show the value.
    """
    given, fields = _json_object(body), _fields(kind)
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise InputError(f"there is no field {unknown[0]!r:.60}; expected {', '.join(fields)}")
    values = {
        name: _checked(name, value, fields[name].type)
        for name, value in given.items()
        if value is not None
    }
    for name, field in fields.items():
        if field.required and name not in values:
            raise InputError(f"{name} is missing; expected a text")
    return kind(**values)


@cache
def _fields(kind: type[Struct]) -> dict[str, inspect.Field]:
    described = inspect.type_info(kind)
    assert isinstance(described, inspect.StructType)
    return {field.name: field for field in described.fields}


def _checked(name: str, value: Any, kind: inspect.Type) -> Any:
    """Return a value as its field has it; InputError names the field and what it takes."""
    while isinstance(kind, inspect.Metadata | inspect.UnionType):
        kind = kind.type if isinstance(kind, inspect.Metadata) else kind.types[0]
    if not _is(value, kind):
        raise InputError(f"{name} is {value!r:.60}, expected {_expected(kind)}")
    if isinstance(kind, inspect.DictType) and not isinstance(kind.value_type, inspect.AnyType):
        return {key: _checked(f"{name}.{key}", one, kind.value_type) for key, one in value.items()}
    if isinstance(kind, inspect.FloatType):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def _is(value: Any, kind: inspect.Type) -> bool:
    """Return whether a JSON value is of a type; of an enumeration, any text is accepted here."""
    match kind:
        case inspect.StrType():
            most = kind.max_length or 0
            return isinstance(value, str) and bool(value.strip()) and len(value) <= most
        case inspect.IntType():
            return type(value) is int and (kind.ge or 0) <= value <= (kind.le or 0)
        case inspect.VarTupleType():
            return isinstance(value, list) and all(isinstance(one, str) for one in value)
        case inspect.FloatType():
            return type(value) in (int, float)
    plain = {inspect.LiteralType: str, inspect.BoolType: bool, inspect.DictType: dict}
    return isinstance(value, plain[type(kind)])


def _expected(kind: inspect.Type) -> str:
    match kind:
        case inspect.StrType():
            return f"a text of 1 to {kind.max_length} characters"
        case inspect.IntType():
            return f"a whole number from {kind.ge} to {kind.le}"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case inspect.FloatType():
            return "a number"
        case inspect.BoolType():
            return "true or false"
        case inspect.VarTupleType():
            return "a list of texts"
    return "an object of fields and values"


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body or b"{}", parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON: {str(error)[:200]}") from None
    if not isinstance(value, dict) or _depth(value) > MAX_DEPTH:
        raise InputError(
            f"the body is {type(value).__name__}, expected an object, at most {MAX_DEPTH} deep"
        )
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _depth(value: Any) -> int:
    level, depth = [value], 0
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            child
            for one in level
            if isinstance(one, dict | list)
            for child in (one.values() if isinstance(one, dict) else one)
        ]
    return depth
