"""The internal requests and answers that every wire protocol is translated to and from.

Also the interfaces between http/ and the rooms below it: Service, Authorizer, Observer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar

from opengte.errors import OpenGTEError
from opengte.types import Floats, ModelCard, Output, Role, Truncated, TruncationSide

# a text, or token ids of the model's own tokenizer
Input = str | tuple[int, ...]
Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True)
class Call:
    """Who sends a request, and how urgent it is."""

    request_id: str
    key: str | None = None  # public identifier of the API key, never the key itself
    priority: Priority = "interactive"
    deadline: float | None = None  # seconds on the clock of time.monotonic()


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to vectors; arguments as in `Encoder.embed`.

    prompt_name names one of the model's prompts; late_chunking takes all inputs as consecutive
    chunks of one document and pools each chunk from the token states of the whole. With partial, an
    input that fails does not fail the others; otherwise the first one fails the request.
    """

    model: str | None
    inputs: tuple[Input, ...]
    role: Role | None = None
    instruction: str | None = None
    prompt_name: str | None = None
    outputs: tuple[Output, ...] = ("dense",)
    dimensions: int | None = None
    truncation: TruncationSide = "right"
    normalize: bool = True
    late_chunking: bool = False
    partial: bool = False


@dataclass(frozen=True)
class ScoreRequest:
    """A reranker's (query, document) pairs to scores, in input order.

    sigmoid maps a classifier's logits to 0..1 (a yes/no model's scores are in that range anyway).
    """

    model: str | None
    pairs: tuple[tuple[str, str], ...]
    instruction: str | None = None
    truncation: TruncationSide = "right"
    max_document_tokens: int | None = None
    sigmoid: bool = True
    partial: bool = False


@dataclass(frozen=True)
class InputFailure:
    """Why one input of a request has no result."""

    index: int
    error: OpenGTEError


@dataclass(frozen=True)
class Timing:
    """Seconds that a request spent in each stage; its batches may hold other requests too."""

    tokenizing: float = 0.0
    queued: float = 0.0
    computing: float = 0.0


@dataclass(frozen=True, eq=False)
class EmbedAnswer:
    """The result of each input; None for a failed one, which is in `failures`.

    dense: (d,) float32 each; sparse: {token id: weight}; tokens and states: (length, width)
    float32. token_counts: tokens computed, special tokens included (0 for a failed input). cached:
    inputs that came from the cache or shared the computation of another request.
    """

    model: ModelCard
    dense: Sequence[Floats | None] | None
    sparse: Sequence[dict[int, float] | None] | None
    tokens: Sequence[Floats | None] | None
    states: Sequence[Floats | None] | None
    token_counts: Sequence[int]
    truncated: tuple[Truncated, ...] = ()
    failures: tuple[InputFailure, ...] = ()
    cached: int = 0
    timing: Timing = field(default_factory=Timing)

    @property
    def tokens_read(self) -> int:
        """How many tokens were read, those that truncation removed included: what is charged."""
        return _tokens_read(self)


@dataclass(frozen=True, eq=False)
class ScoreAnswer:
    """One score for each pair, in input order; None for a failed pair, which is in `failures`."""

    model: ModelCard
    scores: Sequence[float | None]
    token_counts: Sequence[int]
    truncated: tuple[Truncated, ...] = ()
    failures: tuple[InputFailure, ...] = ()
    cached: int = 0
    timing: Timing = field(default_factory=Timing)

    @property
    def tokens_read(self) -> int:
        """How many tokens were read, those that truncation removed included: what is charged."""
        return _tokens_read(self)


def _tokens_read(answer: EmbedAnswer | ScoreAnswer) -> int:
    removed = sum(each.found - each.kept for each in answer.truncated)
    return int(sum(answer.token_counts)) + removed


@dataclass(frozen=True)
class Token:
    """One token of a text: start and stop are character offsets, None for special tokens."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


@dataclass(frozen=True)
class ModelStatus:
    """The state of one model; card is None until it is loaded."""

    name: str
    state: Literal["loading", "ready", "failed", "unhealthy"]
    card: ModelCard | None
    created: int  # Unix time when it became ready, or when loading began
    detail: str | None = None  # why it failed or is unhealthy
    max_batch_tokens: int | None = None
    max_queue_tokens: int | None = None
    queued_tokens: int = 0
    aliases: tuple[str, ...] = ()  # further names under which clients may request it
    hub_id: str | None = None  # of its weights, if they are from the Hub

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it was given."""
        return (self.name, *self.aliases)


class Named(Protocol):
    """What clients ask for by name."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it was given."""
        ...

    @property
    def hub_id(self) -> str | None:
        """The Hub id of its weights."""
        ...


N = TypeVar("N", bound=Named)


def find_named(name: str, models: Sequence[N]) -> N | None:
    """Return the model that a client means by a name, or None for an unknown or ambiguous one.

    It is one of the names that a model was given or, if none has it, one of them in another case or
    with Ollama's tag `:latest`, or the model's Hub id.
    """
    for model in models:
        if name in model.names:
            return model
    wanted = _folded(name)
    found = [model for model in models if wanted in map(_folded, model.names)]
    if not found:
        found = [model for model in models if model.hub_id and wanted == _folded(model.hub_id)]
    return found[0] if len(found) == 1 else None


def _folded(name: str) -> str:
    return name.casefold().removesuffix(":latest")


class Service(Protocol):
    """Answers internal requests; the routes call it.

    Raises UnknownModelError, NotReadyError, OverloadedError, DeadlineError, CapabilityError,
    InputError, TruncationError or EngineError. Cancelling a call drops what it had queued. A model
    of None means the first of the right kind (encoder for embed, reranker for score).
    """

    async def embed(self, request: EmbedRequest, call: Call) -> EmbedAnswer:
        """Answer an embedding request."""
        ...

    async def score(self, request: ScoreRequest, call: Call) -> ScoreAnswer:
        """Answer a scoring request."""
        ...

    async def tokenize(
        self, model: str | None, texts: tuple[str, ...], add_special: bool, prompt_name: str | None
    ) -> list[list[Token]]:
        """Return the tokens of each text."""
        ...

    async def decode(
        self, model: str | None, ids: tuple[tuple[int, ...], ...], skip_special: bool
    ) -> list[str]:
        """Return the text of each sequence of token ids."""
        ...

    def models(self) -> tuple[ModelStatus, ...]:
        """Return every model, loaded or not, in the order of the settings."""
        ...

    @property
    def loading(self) -> bool:
        """Whether a model is being loaded for the first time."""
        ...

    async def wait_loaded(self, model: str | None, kind: str, tokens: int, call: Call) -> None:
        """Wait while the model that a request is for is loading; kind is empty if any will do.

        Raises NotReadyError, with the seconds to wait, if too many wait already.
        """
        ...

    async def check(self) -> None:
        """Run every ready model once; raise NotReadyError when none is ready or one is silent."""
        ...


@dataclass(frozen=True)
class Caller:
    """The sender of a request: its API key's public identifier and default priority."""

    key: str | None = None  # None if the server needs no keys
    priority: Priority = "interactive"


class Authorizer(Protocol):
    """Authenticates callers, and enforces rate limits and quotas."""

    def authenticate(self, secret: str | None, model: str | None) -> Caller:
        """Return the caller with this key, and count a request.

        Raises AccessError, or LimitError when the requests of the minute are used up.
        """
        ...

    def sees(self, secret: str | None) -> Callable[[str], bool]:
        """Return whether a key is for a model, without counting a request; raises AccessError."""
        ...

    def may_use(self, caller: Caller, model: str) -> bool:
        """Return whether a caller's key is for this model, among others."""
        ...

    def reserve(self, caller: Caller, model: str, tokens: int) -> None:
        """Count tokens before they are computed; LimitError when a limit or quota is used up."""
        ...

    def record(self, caller: Caller, model: str, tokens: int, texts: int) -> None:
        """Record the usage of a request."""
        ...


class Observer(Protocol):
    """Receives the service's measurements, for metrics; must not block."""

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """Report a computed batch."""
        ...

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Report n events.

        Events: tokens, truncated, missing_instruction, cache_hit, cache_miss, duplicate, expired,
        cancelled, refused_overload, refused_poison, engine_fault, failed_input.
        """
        ...
