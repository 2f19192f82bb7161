"""Adapters that let mteb evaluate an `Encoder` or a `Reranker`."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from opengte import published_models
from opengte.evaluate.cached_encoder import CachedEncoder, EncodingStats, SupportsEmbed
from opengte.tokenization.instructions import instruction_for
from opengte.types import Floats, ModelCard, Role

BATCH = 4096  # texts per call from mteb; the encoder forms its own batches by tokens


class EncoderForMteb:
    """Satisfies mteb's `EncoderProtocol`.

    An instruct model gets the task's instruction before queries, and before every text of a
    symmetric task; other models get the prompt of the role.
    """

    def __init__(self, encoder: CachedEncoder) -> None:
        self.encoder = encoder
        self.mteb_model_meta = mteb_model_meta(encoder.encoder, encoder.dimensions)

    @property
    def stats(self) -> EncodingStats:
        """Return the work done so far."""
        return self.encoder.stats

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Floats:
        """Return L2-normalised vectors (n, d) of the texts of a loader."""
        role: Role | None = None if prompt_type is None else prompt_type.value
        instruction = self._instruction(task_metadata, role)
        return self.encoder.encode(_texts(inputs), role, instruction)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return cosine similarities (n, m) as a torch tensor."""
        from mteb.similarity_functions import cos_sim

        return cos_sim(embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """Return cosine similarities (n,) of corresponding rows as a torch tensor."""
        from mteb.similarity_functions import pairwise_cos_sim

        return pairwise_cos_sim(embeddings1, embeddings2)

    def _instruction(self, task: Any, role: Role | None) -> str | None:
        if self.encoder.encoder.card.instruction_template is None or role == "document":
            return None
        return instruction_for(task.name, task.type)


class RerankerForMteb:
    """Satisfies mteb's `CrossEncoderProtocol`."""

    def __init__(self, reranker: Any, advance: Callable[[int], None] | None = None) -> None:
        self.reranker = reranker
        self.stats = EncodingStats()
        self.mteb_model_meta = mteb_model_meta(reranker, None)
        self.advance = advance

    def predict(
        self,
        inputs1: Any,
        inputs2: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **kwargs: Any,
    ) -> Floats:
        """Return one score per pair, (n,) float32; pairs of one query are scored together."""
        queries, documents = _texts(inputs1), _texts(inputs2)
        places: dict[str, list[int]] = {}
        for place, query in enumerate(queries):
            places.setdefault(query, []).append(place)
        scores = np.empty(len(queries), np.float32)
        instruction = self._instruction(task_metadata)
        for query, rows in places.items():
            scores[rows] = self._score(query, [documents[row] for row in rows], instruction)
        return scores

    def _score(self, query: str, documents: Sequence[str], instruction: str | None) -> Floats:
        before, start = self.reranker.counters, time.perf_counter()
        scores: Floats = self.reranker.score(query, documents, instruction=instruction)
        self.stats.seconds += time.perf_counter() - start
        after = self.reranker.counters
        self.stats.texts += len(documents)
        self.stats.encoded += len(documents) - (after.duplicates - before.duplicates)
        self.stats.tokens += after.tokens - before.tokens
        self.stats.truncated += after.truncated - before.truncated
        if self.advance is not None:
            self.advance(len(documents))
        return scores

    def _instruction(self, task: Any) -> str | None:
        if self.reranker.card.instruction_template is None:
            return None
        return instruction_for(task.name, task.type)


def model_name(card: ModelCard) -> str:
    """Return the `organisation/name` of the results: the published one if it is known."""
    found = published_models.find_published_model(
        card.name
    ) or published_models.find_published_model(card.name.removeprefix("pypi:").removeprefix("gt-"))
    if found is not None:
        return found.id
    return card.name if card.name.count("/") == 1 else "local/" + card.name.rsplit("/", 1)[-1]


def result_revision(card: ModelCard, dimensions: int | None) -> str:
    """Return the identity of a configuration: weights, engine, precision, dimensions."""
    cut = [f"{dimensions}d"] if dimensions and dimensions != card.dimension else []
    return "-".join([card.fingerprint, str(card.engine), str(card.precision), *cut])


def mteb_model_meta(loaded: SupportsEmbed | Any, dimensions: int | None) -> Any:
    """Return mteb's record of a model."""
    from mteb.models.model_meta import ModelMeta, ScoringFunction

    card: ModelCard = loaded.card
    reranker = card.kind == "reranker"
    return ModelMeta(
        loader=None,
        name=model_name(card),
        revision=result_revision(card, dimensions),
        release_date=None,
        languages=None,
        n_parameters=card.parameters or None,
        memory_usage_mb=None,
        max_tokens=card.max_length,
        embed_dim=None if reranker else dimensions or card.dimension,
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"] if card.engine == "torch" else [],
        similarity_fn_name=None if reranker else ScoringFunction.COSINE,
        use_instructions=card.instruction_template is not None,
        training_datasets=None,
        model_type=["cross-encoder"] if reranker else ["dense"],
    )


def _texts(inputs: Any) -> list[str]:
    """Return the texts of a data loader, read from its dataset's column if it has one."""
    dataset = getattr(inputs, "dataset", None)
    if "text" in getattr(dataset, "column_names", ()):
        return [str(text) for text in dataset["text"]]  # type: ignore[index]
    return [str(text) for batch in inputs for text in batch["text"]]
