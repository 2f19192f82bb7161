"""From a request's arguments to what is asked of each of its inputs."""

import logging

from opengte.encoder import Encoder, Reranker
from opengte.errors import CapabilityError, InputError
from opengte.published_models import WEB_SEARCH, allows_dimension
from opengte.serve.inference.types import Spec, salt
from opengte.serve.types import EmbedRequest, ScoreRequest
from opengte.tokenization.prompts import read_prompts
from opengte.types import Output, TruncationSide

log = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 16  # hardly any text has as many
KEPT = 256  # specs: clients repeat the same few


class Specs:
    """The specs of one model, made once for equal arguments."""

    def __init__(self, model: Encoder | Reranker) -> None:
        self._model = model
        self._made: dict[object, Spec] = {}
        prompts = model.checkpoint.prompts
        self.prompts = {k: v for k, v in read_prompts(model.checkpoint.folder).items() if k}
        if isinstance(model, Encoder):
            self.prompts = {
                "query": prompts.prefix("query"),
                "document": prompts.document,
                **self.prompts,
            }

    def embed(self, request: EmbedRequest) -> Spec:
        """Return the spec of an embedding request; InputError or CapabilityError when it is bad."""
        asked = (
            request.role,
            request.instruction,
            request.prompt_name,
            request.outputs,
            request.dimensions,
            request.truncation,
            request.normalize,
        )
        return self._made.get(asked) or self._keep(asked, self._embed(request))

    def score(self, request: ScoreRequest) -> Spec:
        """Return the spec of a scoring request."""
        asked = (request.instruction, request.truncation, request.max_document_tokens)
        return self._made.get(asked) or self._keep(asked, self._score(request))

    def prefix(self, name: str) -> str:
        """Return the prompt of that name; InputError lists the names."""
        if name not in self.prompts:
            names = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(
                f"prompt_name is {name!r}, and the prompts of `{self._model.card.name}` are {names}"
            )
        return self.prompts[name]

    def _keep(self, asked: object, spec: Spec) -> Spec:
        if len(self._made) >= KEPT:
            del self._made[next(iter(self._made))]
        self._made[asked] = spec
        return spec

    def _embed(self, request: EmbedRequest) -> Spec:
        model = self._model
        assert isinstance(model, Encoder)
        outputs = model.check_outputs(request.outputs)
        size = model.check_dimensions(request.dimensions)
        if size < model.card.dimension and not allows_dimension(model.card.dimensions, size):
            log.warning(
                "`%s` was not trained for vectors cut to %d dimensions", model.card.name, size
            )
        _check_instruction(request.instruction, model.card.max_length)
        prompts = model.checkpoint.prompts
        if request.prompt_name is None:
            prefix = prompts.prefix(request.role, request.instruction)
            missing = prompts.missing_instruction(request.role, request.instruction)
        elif request.instruction is not None:
            raise InputError("both instruction and prompt_name are given, expected one of them")
        else:
            prefix, missing = self.prefix(request.prompt_name), False
        return self._spec(outputs, size, request.normalize, request.truncation, prefix, missing)

    def _spec(
        self,
        outputs: frozenset[Output],
        size: int,
        normalize: bool,
        truncation: TruncationSide,
        prefix: str,
        missing: bool,
    ) -> Spec:
        card, mask = self._model.card, self._model.checkpoint.prompts.mask
        side = side_of(truncation)
        parts = card.fingerprint, card.engine, card.precision, card.max_length, sorted(outputs)
        return Spec(
            outputs=outputs,
            size=size,
            salt=salt(*parts, size, normalize, side, prefix, mask),
            normalize=normalize,
            side=side,
            prefix=prefix,
            mask=mask,
            missing_instruction=missing,
        )

    def _score(self, request: ScoreRequest) -> Spec:
        model = self._model
        assert isinstance(model, Reranker)
        if request.instruction is not None and not model.takes_instructions:
            raise CapabilityError(
                f"instruction is {request.instruction!r:.80}, but `{model.card.name}` takes none"
            )
        _check_instruction(request.instruction, model.card.max_length)
        limit = request.max_document_tokens
        if limit is not None and limit < 1:
            raise InputError(f"max_document_tokens is {limit}, expected at least 1")
        side = side_of(request.truncation)
        card = model.card
        instruction = (request.instruction or WEB_SEARCH) if model.takes_instructions else None
        parts = card.fingerprint, card.engine, card.precision, card.max_length, instruction
        return Spec(
            outputs=frozenset(),
            size=0,
            salt=salt("score", *parts, side, limit),
            side=side,
            instruction=instruction,
            max_document_tokens=limit,
            missing_instruction=model.takes_instructions and request.instruction is None,
        )


def _check_instruction(instruction: str | None, max_length: int) -> None:
    """Refuse an instruction that could not leave room for a text, before anybody reads it."""
    limit = CHARACTERS_PER_TOKEN * max_length
    if instruction is not None and len(instruction) > limit:
        raise InputError(
            f"instruction has {len(instruction)} characters, more than {limit}: it goes in front "
            f"of every text, and the model reads {max_length} tokens in all"
        )


def side_of(truncation: TruncationSide) -> TruncationSide:
    """Return where a text is cut: what is an error when cut is computed as if cut at the right."""
    if truncation not in ("right", "left", "error"):
        raise InputError(f"truncation is {truncation!r}, expected right, left or error")
    return "left" if truncation == "left" else "right"
