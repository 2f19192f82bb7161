"""`Reranker`: a query and documents to scores."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from opengte import checkpoint as checkpoints
from opengte import embedding_ops
from opengte import engine as engines
from opengte.batching import cut_batches
from opengte.encoder.loaded_model import LoadedModel
from opengte.encoder.results import check_finite
from opengte.errors import CapabilityError, CheckpointError, InputError, TruncationWarning
from opengte.published_models import WEB_SEARCH
from opengte.text_input import check_text, check_texts
from opengte.tokenization.qwen3_reranker import PREFIX, SUFFIX, judge_prompt
from opengte.types import Floats, Ranked, Tokenized, TruncationSide


class Reranker(LoadedModel):
    """Scores documents against a query by reading both together. Safe to use from several threads.

    >>> reranker = Reranker.load("BAAI/bge-reranker-base")
    >>> reranker.rank("what do cats eat", ["Cats eat meat.", "Tax law."])[0].text
    'Cats eat meat.'
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
        """Load a reranker; arguments and errors are those of `Encoder.load`.

        >>> Reranker.load("BAAI/bge-reranker-base", precision="fp32").card.kind
        'reranker'
        """
        checkpoint = checkpoints.read_checkpoint(
            model, revision=revision, offline=offline, max_length=max_length, kind="reranker"
        )
        if checkpoint.kind != "reranker":
            raise CheckpointError(
                f"`{model}` is a late-interaction model, not a reranker that reads pairs. Use "
                "LateInteraction.load, which scores as well."
            )
        return cls(
            checkpoint,
            engines.load_engine(
                checkpoint, engine=engine, precision=precision, threads=threads, device=device
            ),
        )._loaded(offline=offline, threads=threads, device=device)

    def score(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None
    ) -> Floats:
        """Return the relevance of each document to a query: (n,) float32, higher is better.

        Args:
            query: The query.
            documents: Any iterable of documents; an equal document is scored once.
            instruction: States the task, for models whose `takes_instructions` is true.

        Returns:
            One score for each document, in input order: an unbounded logit for a classifier, a
            probability for a model that takes instructions. With two classes, it is the logit of
            the second one minus that of the first. A document that is too long loses its
            end, with a TruncationWarning.

        Raises:
            InputError: The query or a document is not a string.
            CapabilityError: The model takes no instructions.

        >>> reranker.score("what do cats eat", ["Cats eat meat.", "Tax law."]).shape
        (2,)
        """
        texts = check_texts(documents, "documents")
        query = check_text(query, "query")
        self._check_classes()
        if not texts:
            return np.zeros(0, np.float32)
        distinct, inverse = embedding_ops.deduplicate(texts)
        tokenized = self.tokenize([(query, text) for text in distinct], instruction=instruction)
        self._count(missing_instructions=int(self.takes_instructions and instruction is None))
        scores = self._logits(tokenized)
        if scores.ndim == 2:
            scores = scores[:, 1] - scores[:, 0]
        self._report(tokenized, len(texts), len(distinct))
        return scores[inverse]

    def classify(self, pairs: Iterable[tuple[str, str]]) -> Floats:
        """Return the logits of every class for each pair of texts: (n, classes) float32.

        `card.labels` names the classes. A model with a single score has one column. InputError if a
        pair is not two strings; a pair that is too long loses its end, with a TruncationWarning.

        >>> reranker.classify([("what do cats eat", "Cats eat meat.")]).shape
        (1, 1)
        """
        found = list(pairs)
        if not found:
            return np.zeros((0, max(1, len(self.card.labels))), np.float32)
        tokenized = self.tokenize(found)
        logits = self._logits(tokenized)
        self._report(tokenized, len(found), len(found))
        return logits.reshape(len(found), -1)

    def _check_classes(self) -> None:
        if len(self.card.labels) > 2:
            raise CapabilityError(
                f"`{self.card.name}` tells {len(self.card.labels)} classes apart "
                f"({', '.join(self.card.labels[:5])}) and has no score of relevance. Use classify."
            )

    def _logits(self, tokenized: Tokenized) -> Floats:
        classes = len(self.card.labels)
        shape = (len(tokenized.batch), classes) if classes else (len(tokenized.batch),)
        found = np.empty(shape, np.float32)
        for indices in cut_batches(tokenized.batch.lengths, self._engine.max_batch_tokens):
            result = self._engine.score(tokenized.batch.select(indices)).score
            assert result is not None
            found[indices] = result
        check_finite(found, "score")
        return found

    def rank(
        self,
        query: str,
        documents: Iterable[str],
        top_k: int | None = None,
        *,
        instruction: str | None = None,
    ) -> list[Ranked]:
        """Return the documents from best to worst, at most top_k of them; ties in input order.

        The other arguments and the errors are those of `score`.

        >>> ranked = reranker.rank("what do cats eat", ["Tax law.", "Cats eat meat."], top_k=1)
        >>> ranked[0].index, ranked[0].text
        (1, 'Cats eat meat.')
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}, expected at least 1")
        texts = check_texts(documents, "documents")
        scores = self.score(query, texts, instruction=instruction)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]

    @property
    def takes_instructions(self) -> bool:
        """Whether the model takes instructions; its scores are then probabilities.

        >>> reranker.takes_instructions
        False
        """
        score = self._checkpoint.plan.score
        return score is not None and bool(score.vocabulary_rows)

    def tokenize(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        instruction: str | None = None,
        truncation: TruncationSide = "right",
    ) -> Tokenized:
        """Return (query, document) pairs as the token sequences that the model reads.

        >>> reranker.tokenize([("a cat", "cats eat meat")]).batch.lengths.tolist()
        [14]
        """
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
