"""The one internal request and its answer: what every protocol is translated into and out of."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from opengte.errors import OpenGTEError
from opengte.types import Floats, ModelCard, Output, Role, Truncated, TruncationSide

# a text, or token ids of the model's own tokenizer
Input = str | tuple[int, ...]
Priority = Literal["interactive", "bulk"]


@dataclass(frozen=True)
class Call:
    """Who asks, and how urgently: what a request carries besides its content."""

    request_id: str
    key: str | None = None  # public identifier of the API key, never the key
    priority: Priority = "interactive"
    deadline: float | None = None  # on the clock of time.monotonic(), seconds


@dataclass(frozen=True)
class EmbedRequest:
    """Texts to vectors; arguments as in `Encoder.embed`.

    prompt_name names one of the model's prompts, where a protocol has that; late_chunking reads all
    inputs as consecutive pieces of one document and pools each piece from the states of the whole.
    partial lets good inputs succeed beside bad ones; otherwise the first bad one fails the request.
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
    """Pairs to scores, in input order: a reranker's (query, document) pairs.

    sigmoid turns a classifier's logits into 0..1 (a yes/no model's scores are so already).
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
    """Seconds a request spent in each stage; computing is shared with its batch companions."""

    tokenizing: float = 0.0
    queued: float = 0.0
    computing: float = 0.0


@dataclass(frozen=True, eq=False)
class EmbedAnswer:
    """What was computed, per input; a failed input's places are None and it is in `failures`.

    dense (d,) float32 each; sparse {token id: weight}; tokens and states (length, width) float32;
    token_counts as computed, special tokens included (0 for a failed input); cached: how many
    inputs came from the cache or were shared with another request.
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


@dataclass(frozen=True, eq=False)
class ScoreAnswer:
    """One score a pair, in input order; None where the pair failed."""

    model: ModelCard
    scores: Sequence[float | None]
    token_counts: Sequence[int]
    truncated: tuple[Truncated, ...] = ()
    failures: tuple[InputFailure, ...] = ()
    cached: int = 0
    timing: Timing = field(default_factory=Timing)


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
    """One model as the server has it; card is None until it is loaded."""

    name: str
    state: Literal["loading", "ready", "failed", "unhealthy"]
    card: ModelCard | None
    created: int  # Unix time when it became ready, or was asked for
    detail: str | None = None  # why it failed or is unhealthy
    max_batch_tokens: int | None = None
    max_queue_tokens: int | None = None
    queued_tokens: int = 0
    aliases: tuple[str, ...] = ()  # further names that clients may ask for

    def called(self, name: str) -> bool:
        """Return whether clients may ask for the model by this name."""
        return name == self.name or name in self.aliases


class Service(Protocol):
    """What the routes call; answers internal requests. All errors are OpenGTEErrors.

    Raises UnknownModelError, NotReadyError, OverloadedError, DeadlineError, CapabilityError,
    InputError, TruncationError or EngineError. Cancelling a call frees what it had queued. A model
    of None means the first of the kind that fits (encoder for embed, reranker for score).
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
        """Return every model, loaded or not, in the order they were given."""
        ...

    async def check(self) -> None:
        """Run every ready model once; raise NotReadyError when one does not answer."""
        ...


@dataclass(frozen=True)
class Identity:
    """The holder of an API key as the routes see it: what the key allows by default."""

    key: str | None = None  # public identifier; None where the server needs no keys
    priority: Priority = "interactive"


class Gate(Protocol):
    """Who may do what, and how much of it."""

    def admit(self, secret: str | None, model: str | None) -> Identity:
        """Return who holds the key; raise AccessError or LimitError (requests per minute)."""
        ...

    def reserve(self, identity: Identity, model: str, tokens: int) -> None:
        """Count tokens about to be computed; raise LimitError when a limit or quota is used up."""
        ...

    def record(self, identity: Identity, model: str, tokens: int, texts: int) -> None:
        """Write down what was used."""
        ...


class Observer(Protocol):
    """Where the service reports what happens inside, for metrics and traces; must not block."""

    def batch(self, model: str, texts: int, tokens: int, budget: int, seconds: float) -> None:
        """One batch was computed."""
        ...

    def count(self, event: str, model: str, n: int = 1) -> None:
        """Something was counted.

        Events: tokens, truncated, missing_instruction, cache_hit, cache_miss, duplicate, expired,
        cancelled, refused_overload, refused_poison, engine_fault, failed_input.
        """
        ...
