"""Resolves the arguments of a request to the options of its inputs."""

import logging
from dataclasses import replace

from opengte.encoder import Encoder, Reranker
from opengte.errors import CapabilityError, InputError
from opengte.published_models import WEB_SEARCH, allows_dimension
from opengte.serve.inference.types import RequestOptions, salt
from opengte.serve.types import EmbedRequest, ScoreRequest
from opengte.tokenization.prompts import read_prompts
from opengte.types import Role, TruncationSide

log = logging.getLogger(__name__)

MAX_CHARACTERS_PER_TOKEN = 16  # hardly any text has as many
MAX_CACHED = 256  # options: clients repeat the same few arguments


class OptionsResolver:
    """Makes the options for one model; equal arguments share them."""

    def __init__(self, model: Encoder | Reranker) -> None:
        self._model = model
        self._cached: dict[object, RequestOptions] = {}
        prompts = model.checkpoint.prompts
        self.prompts = {k: v for k, v in read_prompts(model.checkpoint.folder).items() if k}
        if isinstance(model, Encoder):
            self.prompts = {
                "query": prompts.prefix("query"),
                "document": prompts.document,
                **self.prompts,
            }

    def embed_options(self, request: EmbedRequest) -> RequestOptions:
        """Return the options of an embedding request.

        Raises InputError or CapabilityError for arguments that the model does not take.
        """
        arguments = (
            request.role,
            request.instruction,
            request.prompt_name,
            request.outputs,
            request.dimensions,
            request.truncation,
            request.normalize,
        )
        return self._cached.get(arguments) or self._cache(arguments, self._embed(request))

    def score_options(self, request: ScoreRequest) -> RequestOptions:
        """Return the options of a scoring request; raises as `embed_options` does."""
        arguments = (request.instruction, request.truncation, request.max_document_tokens)
        return self._cached.get(arguments) or self._cache(arguments, self._score(request))

    def prompt(self, name: str) -> str:
        """Return the prompt of that name; the InputError for an unknown name lists all names."""
        if name not in self.prompts:
            names = ", ".join(map(repr, self.prompts)) or "none"
            raise InputError(
                f"prompt_name is {name!r}, and the prompts of `{self._model.card.name}` are {names}"
            )
        return self.prompts[name]

    def _cache(self, arguments: object, options: RequestOptions) -> RequestOptions:
        if len(self._cached) >= MAX_CACHED:
            del self._cached[next(iter(self._cached))]
        self._cached[arguments] = options
        return options

    def _embed(self, request: EmbedRequest) -> RequestOptions:
        model = self._model
        assert isinstance(model, Encoder)
        outputs = model.check_outputs(request.outputs)
        size = model.check_dimensions(request.dimensions)
        if size < model.card.dimension and not allows_dimension(model.card.dimensions, size):
            log.warning(
                "`%s` was not trained for vectors cut to %d dimensions", model.card.name, size
            )
        _check_instruction(request.instruction, model.card.max_length)
        prefix, missing = self._prefix(request)
        card, mask, side = model.card, model.checkpoint.prompts.mask, _side(request.truncation)
        parts: tuple[object, ...] = (
            *(card.fingerprint, card.engine, card.precision, card.max_length, sorted(outputs)),
        )
        role = request.role if model.checkpoint.late_files is not None else None
        if role is not None:
            parts = (*parts, role)
        return RequestOptions(
            outputs=outputs,
            size=size,
            salt=salt(*parts, size, request.normalize, side, prefix, mask),
            normalize=request.normalize,
            side=side,
            prefix=prefix,
            mask=mask,
            missing_instruction=missing,
            strict=request.truncation == "error",
            role=role,
        )

    def token_options(self, request: ScoreRequest, role: Role) -> RequestOptions:
        """Return the options of the queries, or the documents, of a late-interaction request.

        Raises InputError or CapabilityError for arguments that the model does not take.
        """
        limit = request.max_document_tokens
        if request.instruction is not None:
            raise CapabilityError(
                f"instruction is {request.instruction!r:.80}, but `{self._model.card.name}` takes "
                "none"
            )
        if limit is not None and limit < 1:
            raise InputError(f"max_document_tokens is {limit}, expected at least 1")
        options = self.embed_options(
            EmbedRequest(
                model=request.model,
                inputs=(),
                role=role,
                outputs=("tokens",),
                truncation=request.truncation,
            )
        )
        if role == "query" or limit is None:
            return options
        return replace(options, max_document_tokens=limit, salt=salt(options.salt, limit))

    def _prefix(self, request: EmbedRequest) -> tuple[str, bool]:
        """Return the prompt of a request, and whether it lacks an instruction."""
        if request.prompt_name is None:
            prompts = self._model.checkpoint.prompts
            missing = prompts.missing_instruction(request.role, request.instruction)
            return prompts.prefix(request.role, request.instruction), missing
        if request.instruction is not None:
            raise InputError("both instruction and prompt_name are given, expected one of them")
        return self.prompt(request.prompt_name), False

    def _score(self, request: ScoreRequest) -> RequestOptions:
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
        side = _side(request.truncation)
        card = model.card
        instruction = (request.instruction or WEB_SEARCH) if model.takes_instructions else None
        parts = card.fingerprint, card.engine, card.precision, card.max_length, instruction
        return RequestOptions(
            outputs=frozenset(),
            size=0,
            salt=salt("score", *parts, side, limit),
            side=side,
            instruction=instruction,
            max_document_tokens=limit,
            missing_instruction=model.takes_instructions and request.instruction is None,
            strict=request.truncation == "error",
        )


def _check_instruction(instruction: str | None, max_length: int) -> None:
    """Refuse an instruction that would leave no room for a text, before it is tokenized."""
    limit = MAX_CHARACTERS_PER_TOKEN * max_length
    if instruction is not None and len(instruction) > limit:
        raise InputError(
            f"instruction has {len(instruction)} characters, more than {limit}: it goes in front "
            f"of every text, and the model reads {max_length} tokens in all"
        )


def _side(truncation: TruncationSide) -> TruncationSide:
    """Return the side to truncate; "error" truncates at the right, and the request fails later."""
    if truncation not in ("right", "left", "error"):
        raise InputError(f"truncation is {truncation!r}, expected right, left or error")
    return "left" if truncation == "left" else "right"
