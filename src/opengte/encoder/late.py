"""`LateInteraction`: a vector for each token, scored by MaxSim."""

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from opengte import embedding_ops
from opengte.encoder.encoder import Encoder
from opengte.encoder.loaded_model import Counters
from opengte.encoder.token_pooling import pool_tokens
from opengte.engine.maxsim import Stored, TokenVectors, maxsim
from opengte.errors import CapabilityError, InputError, TruncationWarning
from opengte.text_input import check_text, check_texts, single_text
from opengte.tokenization.late import LateSettings
from opengte.types import Floats, ModelCard, Ranked, Role


class LateInteraction:
    """Scores documents by the vectors of their tokens: PyLate, ColBERT, bge-m3.

    A query token counts with the document token that is most similar to it. Documents are embedded
    alone, so that their vectors can be stored. Reranks as a `Reranker` does. Safe to use from
    several threads.

    >>> late = LateInteraction.load("lightonai/LateOn")
    >>> len(late.rank("what do cats eat", ["Cats eat meat.", "Tax law."]))
    2
    """

    def __init__(self, encoder: Encoder) -> None:
        """Use a loaded encoder; CapabilityError if it has no token vectors."""
        if encoder.late is None:
            raise CapabilityError(
                f"`{encoder.card.name}` has no token vectors, expected a late-interaction model "
                "(PyLate, sentence-transformers' MultiVectorEncoder, bge-m3). Use it as an Encoder."
            )
        self.encoder = encoder
        self.settings: LateSettings = encoder.late

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
    ) -> "LateInteraction":
        """Load a late-interaction model; arguments and errors are those of `Encoder.load`.

        CapabilityError if the model has no token vectors.

        >>> LateInteraction.load("lightonai/LateOn").card.late["score"]
        'sum'
        """
        return cls(
            Encoder.load(
                model,
                engine=engine,
                precision=precision,
                threads=threads,
                device=device,
                revision=revision,
                max_length=max_length,
                offline=offline,
            )
        )

    @property
    def card(self) -> ModelCard:
        """The model's card, whose `late` says how texts are read and scored.

        >>> late.card.kind
        'encoder'
        """
        return self.encoder.card

    @property
    def counters(self) -> Counters:
        """A snapshot of the counters of the encoder.

        >>> late.counters.truncated
        0
        """
        return self.encoder.counters

    def encode_query(self, texts: str | Iterable[str]) -> list[Floats]:
        """Return the token vectors of queries, each (t, d) float32.

        A query beyond the model's query length loses its end, with a TruncationWarning.

        >>> [vectors.shape[1] for vectors in late.encode_query(["what do cats eat"])]
        [128]
        """
        return self._token_vectors(texts, "query")

    def encode_document(
        self, texts: str | Iterable[str], *, pool_factor: float = 1
    ) -> list[Floats]:
        """Return the token vectors of documents, each (t, d) float32.

        pool_factor 2 to 4 keeps about one vector for as many tokens: similar ones become their
        mean. A document beyond the model's document length loses its end, with a TruncationWarning.

        >>> whole, = late.encode_document(["Cats eat meat, fish and much else."])
        >>> half, = late.encode_document(["Cats eat meat, fish and much else."], pool_factor=2)
        >>> len(half) < len(whole)
        True
        """
        vectors = self._token_vectors(texts, "document")
        if pool_factor == 1:
            return vectors
        return [pool_tokens(one, pool_factor) for one in vectors]

    def _token_vectors(self, texts: str | Iterable[str], role: Role) -> list[Floats]:
        single = single_text(texts)
        result = self.encoder.embed(
            texts if single is None else single, role=role, outputs=("tokens",)
        )
        if result.truncated:
            first = result.truncated[0]
            warnings.warn(
                f"{len(result.truncated)} of {len(result)} texts of the role {role} lost tokens: "
                f"the model takes {first.kept}, and the one at index {first.index} has "
                f"{first.found_text}. Shorten or split them",
                TruncationWarning,
                stacklevel=3,
            )
        assert result.tokens is not None
        return list(result.tokens)

    def maxsim(
        self, query: Floats, documents: list[Floats] | TokenVectors, *, stored: Stored = "fp32"
    ) -> Floats:
        """Return the MaxSim of a query's token vectors with each document's, (n,) float32.

        The sum over query tokens or their mean, as the model was trained. stored names the
        precision of the products: `fp32`, `bf16` or `int8`.

        >>> query, = late.encode_query(["what do cats eat"])
        >>> late.maxsim(query, late.encode_document(["Cats eat meat.", "Tax law."])).shape
        (2,)
        """
        vectors = documents
        if not isinstance(vectors, TokenVectors):
            vectors = TokenVectors.of(vectors, stored)
        return maxsim(query, vectors, mean=self.settings.mean)

    def score(
        self, query: str, documents: Iterable[str], *, instruction: str | None = None
    ) -> Floats:
        """Return the MaxSim of each document with a query: (n,) float32, higher is better.

        Arguments, warnings and errors are those of `Reranker.score`.

        >>> late.score("what do cats eat", ["Cats eat meat.", "Tax law."]).shape
        (2,)
        """
        if instruction is not None:
            raise CapabilityError(
                f"instruction is {instruction!r:.80}, but `{self.card.name}` takes no instructions"
            )
        texts = check_texts(documents, "documents")
        query = check_text(query, "query")
        if not texts:
            return np.zeros(0, np.float32)
        distinct, inverse = embedding_ops.deduplicate(texts)
        (vectors,) = self.encode_query([query])
        return self.maxsim(vectors, self.encode_document(distinct))[inverse]

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

        >>> [ranked.index for ranked in late.rank("tax law", ["Meat.", "tax law"], top_k=1)]
        [1]
        """
        if top_k is not None and top_k < 1:
            raise InputError(f"top_k is {top_k}, expected at least 1")
        texts = check_texts(documents, "documents")
        scores = self.score(query, texts, instruction=instruction)
        order = np.argsort(-scores, kind="stable")[:top_k]
        return [Ranked(int(i), float(scores[i]), texts[i]) for i in order]

    @property
    def takes_instructions(self) -> bool:
        """Whether the model takes instructions: never.

        >>> late.takes_instructions
        False
        """
        return False
