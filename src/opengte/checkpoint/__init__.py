"""Reading a checkpoint: from a model's name to its plan, tensors, tokenizer, prompts and card.

What the published files leave out comes from `published_models`; a contradiction between the two
is a CheckpointWarning. Nothing here computes, and nothing imports torch.
"""

import hashlib
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from opengte import adapters, arch, hub, weights
from opengte.adapters import Adapter
from opengte.arch import decoder
from opengte.arch.config_values import is_classifier, label_names
from opengte.arch.plan import Plan
from opengte.arch.tensors import TensorNaming, resolve_slots, unexpected_tensors
from opengte.checkpoint.late import check_expansion, late_plan, read_late_files
from opengte.checkpoint.modules import (
    POOLING_MODES,
    WEIGHTED,
    check_modules,
    module_weights,
    read_layer_mix,
    read_modules,
    read_pooling,
    read_steps,
)
from opengte.checkpoint.prompts import prompts_of
from opengte.checkpoint.static import is_static, static_config
from opengte.checkpoint_checks import check_folder, refuse_quantised_tensors
from opengte.checkpoint_files import (
    SENTENCE_CONFIGS,
    front_matter,
    is_of_new_layout,
    licence_of,
    read_json_config,
    read_length,
    read_optional_json,
    sentence_config,
)
from opengte.checkpoint_keys import ReadConfig, check_keys
from opengte.errors import CheckpointError, CheckpointWarning, InputError
from opengte.hub import ModelLocation, Routes
from opengte.published_models import PublishedModel, find_published_model
from opengte.tokenization.late import (
    KEYS,
    LateFiles,
    LateSettings,
    read_late_settings,
    with_markers,
)
from opengte.tokenization.loading import load_bare_tokenizer, load_tokenizer
from opengte.tokenization.prompts import Prompts
from opengte.tokenization.tokenizer import Tokenizer
from opengte.types import ModelCard, Output, Role
from opengte.weights import PickleReader, WeightChunk, Weights

Kind = Literal["encoder", "reranker"]

SIDE_FILES = {  # bge-m3's heads; a safetensors file, as training writes it, takes precedence
    "sparse_linear.pt": "sparse",
    "colbert_linear.pt": "tokens",
    "sparse_linear.safetensors": "sparse",
    "colbert_linear.safetensors": "tokens",
}
TABLED = (  # files whose keys `checkpoint_keys` has by name
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's files, described: what any engine loads it from."""

    name: str
    source: str
    folder: Path
    kind: Kind
    plan: Plan
    naming: TensorNaming
    prompts: Prompts
    max_length: int
    published: PublishedModel | None
    sides: dict[str, Path]  # side files by the prefix of their tensors
    licence: str | None
    revision: str | None = None  # the commit, or the package's version
    adapter: Adapter | None = None  # merged into the weights
    routes: Routes | None = None  # of a model with an encoder for queries and one for documents
    late_files: LateFiles | None = None  # of PyLate, or of sentence-transformers' multi-vectors

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the special tokens that the model expects."""
        if not self.plan.layers:
            drops = "embeddings" in self._weights.tensors  # Model2Vec's, not sentence-transformers'
            return load_bare_tokenizer(self.folder, without_unknown=drops)
        tokenizer = load_tokenizer(
            self.folder,
            add_bos=self.published.add_bos if self.published else None,
            add_eos=self.published.add_eos if self.published else None,
        )
        return with_markers(tokenizer, self.late_files.prefixes()) if self.late_files else tokenizer

    @cached_property
    def late(self) -> LateSettings | None:
        """How texts become the token vectors of late interaction; None without such vectors."""
        if self.late_files is None:  # bge-m3's head leaves the first token out
            return LateSettings(first=False, mean=True) if self.plan.token_width else None
        settings = read_late_settings(self.late_files, self.tokenizer)
        check_expansion(self.plan, settings, self.folder)
        return settings

    @cached_property
    def _weights(self) -> Weights:
        return self._opened()

    def _opened(self, read_pickle: PickleReader | None = None) -> Weights:
        opened = weights.open_weights(self.folder, self.sides, read_pickle)
        if self.adapter is None:
            return opened
        return adapters.merge(opened, self.adapter, self.naming, read_pickle)

    @property
    def stored_dtype(self) -> str:
        """The dtype of the weight files: fp32, bf16, fp16."""
        return self._weights.dtype

    @property
    def word_dtype(self) -> str:
        """The dtype that word vectors are kept in: that of the files, unless they are computed."""
        if self._weights.pickles or self.plan.layers:
            return self.stored_dtype
        source = resolve_slots(self.plan, self.naming, self._weights.tensors)["embedding.word"]
        return "fp32" if source[0].fold else self.stored_dtype

    @property
    def pickles(self) -> tuple[str, ...]:
        """The names of pickled weight files, which only the torch engine reads."""
        return tuple(path.name for path in self._weights.pickles.values())

    def chunks(
        self, read_pickle: PickleReader | None = None, slots: Collection[str] | None = None
    ) -> Iterator[WeightChunk]:
        """Check every tensor against the plan, then yield the values slot by slot.

        slots limits what is yielded, not what is checked. read_pickle opens `pytorch_model.bin` and
        the like. Raises WeightsError for a tensor that does not fit, and CheckpointError for
        pickles without read_pickle.
        """
        opened = self._weights
        if opened.pickles:
            if read_pickle is None:
                raise CheckpointError(
                    f"`{self.name}` keeps weights in pickles ({', '.join(self.pickles)}), which "
                    "only the torch engine reads. Load it with engine='torch'."
                )
            opened = self._opened(read_pickle)
        refuse_quantised_tensors(self.folder, opened.tensors)
        sources = resolve_slots(self.plan, self.naming, opened.tensors)
        weights.check_tensors(
            opened, sources, unexpected_tensors(sources, self.naming, opened.tensors)
        )
        wanted = (
            sources if slots is None else {slot: sources[slot] for slot in sources if slot in slots}
        )
        return weights.stream_chunks(opened, wanted)

    @cached_property
    def card(self) -> ModelCard:
        """The model card, as far as it is known without an engine."""
        plan = self.plan
        score = self.kind == "reranker"
        return ModelCard(
            name=self.name,
            source=self.source,
            kind=self.kind,
            architecture=plan.architecture,
            layers=len(plan.layers),
            dimension=1 if score else plan.dimension,
            max_length=self.max_length,
            pooling=str(plan.score.pooling if plan.score else plan.pooling or "none"),
            outputs=() if score else output_kinds(plan),
            prompts={role: text for role, text in self._prompt_texts().items() if text},
            instruction_template=self.prompts.template,
            default_instruction=self.prompts.default_instruction,
            dimensions=self.published.dimensions if self.published else (),
            parameters=self._weights.parameters or plan.parameters,
            stored_dtype=self.stored_dtype,
            licence=self.licence,
            fingerprint=self.fingerprint(),
            labels=self.labels,
            query_fingerprint=self.query_fingerprint,
            late=None if score or self.late is None else self.late.described(),
        )

    def _prompt_texts(self) -> dict[str, str]:
        prompts = self.prompts
        query = prompts.prefix("query", None) if self.kind == "encoder" else prompts.query
        return {"query": query, "document": prompts.document, "plain": prompts.plain}

    @cached_property
    def weights_digest(self) -> str:
        """64 hexadecimal digits that change with any byte of the weights and with the network."""
        parts = (weights.weights_fingerprint(self._weights), repr(self.plan))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def fingerprint(self, dimensions: int | None = None) -> str:
        """Return 32 hexadecimal digits that change with anything that changes a vector.

        Every byte of the weights is part of it. The same files in another folder have the same.
        """
        return self._fingerprint(weights.weights_fingerprint(self._weights), dimensions)

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The classes of a classifier with several, in the order of its logits."""
        if self.plan.score is None or not self.plan.score.every:
            return ()
        return label_names(read_json_config(self.folder / "config.json"))

    @cached_property
    def query_fingerprint(self) -> str | None:
        """The fingerprint of the encoder of queries, where they have one of their own."""
        if self.routes is None:
            return None
        return read_checkpoint(self.routes.query, offline=True).fingerprint()

    @cached_property
    def former_fingerprint(self) -> str:
        """The fingerprint that earlier versions gave this model.

        Only to recognise what they made: models whose weights differ in few places may share it.
        """
        if self.adapter is not None:
            return self.fingerprint()  # earlier versions merged none
        return self._fingerprint(weights.sampled_fingerprint(self._weights))

    def _fingerprint(self, of_weights: str, dimensions: int | None = None) -> str:
        parts = (
            of_weights,
            self.tokenizer.fingerprint,
            repr(self.plan),  # pooling and heads included
            repr(self.prompts),
            str(self.max_length),
            str(dimensions or self.plan.dimension),
            *((repr(self.late),) if self.late_files is not None else ()),
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def output_kinds(plan: Plan) -> tuple[Output, ...]:
    """Return the outputs that an encoder with this plan has."""
    optional: tuple[tuple[Output, bool], ...] = (
        ("sparse", plan.sparse),
        ("tokens", plan.token_width > 0),
    )
    dense: tuple[Output, ...] = ("dense",) if plan.pooling or plan.latent else ()
    return (*dense, *(name for name, has in optional if has), "states")


def read_checkpoint(
    model: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    max_length: int | None = None,
    kind: Kind | None = None,
    route: Role = "document",
) -> Checkpoint:
    """Find a model's files, downloading them if necessary, and describe the model.

    Weights are mapped, not read. The arguments are those of `Encoder.load`; kind is derived from
    the files where it is None. route chooses the encoder of a model that has one for queries and
    one for documents; max_length is that of documents. Raises DownloadError, CheckpointError or
    UnsupportedModelError.

    >>> read_checkpoint("minilm").plan.layers[0].attention.heads
    6
    """
    location = hub.fetch_model(str(model), revision=revision, offline=offline)
    routes = hub.read_routes(location.folder)
    if routes is not None:
        files = routes.query if route == "query" else routes.document
        max_length = None if route == "query" else max_length
        location = replace(location, folder=files)
    folder, published = location.folder, _published(location)
    config = _config(folder)
    check_folder(folder, config)
    adapter = adapters.read_adapter(folder)
    if adapter is not None and adapter.classifies and not is_classifier(config):
        config = ReadConfig(adapters.as_classifier(config))
    architecture = arch.architecture_of(config)
    plan, naming = architecture.plan(config), architecture.naming
    late = read_late_files(folder)
    _check_files(folder, config, late)
    if late is not None:
        kind = "encoder"
    if kind is None:
        kind = (
            "reranker" if plan.score or (published and published.kind == "reranker") else "encoder"
        )
    sides: dict[str, Path] = {}
    if late is not None:
        plan, naming, sides = late_plan(replace(plan, score=None), naming, late)
    elif kind == "encoder":
        keeps_states = config.get("output_hidden_states") is True
        plan = replace(plan, score=None)
        plan, naming, sides = _encoder(plan, naming, folder, published, keeps_states)
    elif plan.score is not None:
        every = plan.score.outputs > 1
        plan = replace(plan, score=replace(plan.score, every=every))
    else:
        plan, naming = _yes_no(plan, naming, folder, location.name, published)
    _compare(plan, published, location.name)
    limit = _max_length(folder, plan, published, max_length)
    return Checkpoint(
        name=location.name,
        source=_source(location),
        folder=folder,
        kind=kind,
        plan=plan,
        naming=naming,
        prompts=prompts_of(folder, published, late),
        max_length=limit,
        published=published,
        sides=sides,
        licence=licence_of(folder) or (published.licence if published else None),
        revision=location.revision,
        adapter=adapter,
        late_files=late,
        routes=routes,
    )


def _config(folder: Path) -> ReadConfig:
    """Return the settings of a network; those of a static model have the sizes of its table."""
    if is_static(folder):
        return ReadConfig(static_config(folder))
    return ReadConfig(read_json_config(folder / "config.json"))


def _published(location: ModelLocation) -> PublishedModel | None:
    """Return the row of a published model, or of the one that an adapter was trained on."""
    found = find_published_model(location.name) or find_published_model(location.folder.name)
    return found or (_published(location.base) if location.base is not None else None)


def _source(location: ModelLocation) -> str:
    return f"{location.source} on {location.base.source}" if location.base else location.source


def _check_files(folder: Path, config: ReadConfig, late: LateFiles | None) -> None:
    """Warn of what the small files say and is not applied; config has been read."""
    check_keys(hub.origin(folder / "config.json"), config)
    for path in (sentence_config(folder), *(folder / name for name in TABLED)):
        kind = "sentence_bert_config.json" if path.name in SENTENCE_CONFIGS else path.name
        settings = read_optional_json(path)
        if late is not None:
            settings = {key: value for key, value in settings.items() if key not in KEYS}
        check_keys(hub.origin(path), settings, kind=kind)


def _encoder(
    plan: Plan,
    naming: TensorNaming,
    folder: Path,
    published: PublishedModel | None,
    keeps_states: bool,
) -> tuple[Plan, TensorNaming, dict[str, Path]]:
    """Add pooling, projections and heads in side files to an encoder's plan.

    keeps_states tells whether the modules after the network have the states of all layers.
    """
    chain = read_modules(folder)
    check_modules(folder, chain)
    module = chain.first("Pooling")
    pooling = plan.pooling or (read_pooling(module.folder) if module else None)
    if pooling is None and published is not None:
        pooling = published.pooling
    if pooling is None:
        raise CheckpointError(
            f"`{folder}` does not say how to pool: expected 1_Pooling/config.json with "
            f"`pooling_mode` of {', '.join(POOLING_MODES)}. If the model is a reranker, use "
            "Reranker."
        )
    side = {key: folder / file for file, key in SIDE_FILES.items() if (folder / file).is_file()}
    side = {key: path for key, path in side.items() if key in naming.heads}
    steps = read_steps(chain)
    mix = read_layer_mix(chain, len(plan.layers), keeps_states)
    plan = replace(
        plan,
        pooling=pooling,
        dense=tuple(step for _, step in steps),
        layer_mix=mix,
        sparse=plan.sparse or "sparse" in side,
        token_width=plan.width if "tokens" in side else 0,
    )
    files = {path.name: path for path in side.values()}
    mixer = chain.first("WeightedLayerPooling") if mix else None
    weighted = [m for m in chain.modules if m.kind in WEIGHTED or m is mixer]
    files |= {m.folder.name: module_weights(m.folder) for m in weighted}
    return plan, arch.with_modules(naming, steps, mixer.folder.name if mixer else None), files


def _yes_no(
    plan: Plan, naming: TensorNaming, folder: Path, name: str, published: PublishedModel | None
) -> tuple[Plan, TensorNaming]:
    """Add the head that compares the logits of "yes" and "no" to a decoder."""
    if naming is not decoder.DECODER:
        raise CheckpointError(
            f"`{name}` is not a reranker: its config.json names no sequence-classification head. "
            "Load it with Encoder."
        )
    tokenizer = load_tokenizer(folder)
    yes, no = tokenizer.token_id("yes"), tokenizer.token_id("no")
    if yes is None or no is None:
        raise CheckpointError(f"the tokenizer of `{name}` has no tokens `yes` and `no`")
    base = published or find_published_model(front_matter(folder, "base_model") or "")
    if base is None or base.kind != "reranker":
        warnings.warn(
            f"`{name}` is not known to be a reranker that answers yes or no: its scores are the "
            "probability of `yes` to the question of Qwen3-Reranker. If it was trained with "
            "another question or other answers, they mean nothing",
            CheckpointWarning,
            stacklevel=4,
        )
    return decoder.with_yes_no_head(plan, yes, no), decoder.yes_no_naming((yes, no))


def _compare(plan: Plan, published: PublishedModel | None, name: str) -> None:
    """Warn where the files contradict the table of published models."""
    if published is None:
        return
    pooling = plan.score.pooling if plan.score else plan.pooling
    pairs: list[tuple[str, object, object]] = [("pooling", pooling, published.pooling)]
    if published.causal is not None:
        pairs.append(("causal attention", plan.layers[0].attention.causal, published.causal))
    for what, found, expected in pairs:
        if expected is not None and found != expected:
            warnings.warn(
                f"the files of `{name}` say {what} = {found}, but {published.id} was published "
                f"with {expected}; the files are followed",
                CheckpointWarning,
                stacklevel=4,
            )


def _max_length(
    folder: Path, plan: Plan, published: PublishedModel | None, wanted: int | None
) -> int:
    if wanted is not None:
        if not 1 <= wanted <= plan.max_positions:
            raise InputError(
                f"max_length is {wanted}, expected 1 to {plan.max_positions}, "
                "the positions that the model has"
            )
        return wanted
    if not plan.layers:
        return plan.max_positions
    module = read_length(sentence_config(folder), "max_seq_length")
    tokenizer = read_length(folder / "tokenizer_config.json", "model_max_length")
    known = published.max_length if published else None
    if module is None and published and tokenizer and known:
        if tokenizer < known or is_of_new_layout(folder) and tokenizer != known:
            _warn_of_length(folder, tokenizer, published)
            known = None
    found = module or known or tokenizer or plan.max_positions
    return min(found, plan.max_positions)


def _warn_of_length(folder: Path, length: int, published: PublishedModel) -> None:
    warnings.warn(
        f"the files of `{folder.name}` say a maximum length of {length}, but {published.id} was "
        f"published with {published.max_length}; the files are followed",
        CheckpointWarning,
        stacklevel=5,
    )
