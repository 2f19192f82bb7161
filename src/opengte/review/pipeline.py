"""`Pipeline`: every part of how a query is answered, so that one part can be exchanged."""

from dataclasses import dataclass, replace
from typing import Literal

from opengte.search.calibration.confidence import MinConfidence
from opengte.search.retrieval.search import SearchOptions

Prompts = Literal["usual", "exchanged", "none"]


@dataclass(frozen=True)
class VectorPlan:
    """How texts become vectors, where it is not as the index has them.

    model is a name that the user gave, "" the model of the index. window_tokens None: as the index
    was made, 0: as much as the model reads; instruction None: that of the index.
    """

    model: str = ""
    window_tokens: int | None = None
    title: bool = True
    prompts: Prompts = "usual"
    instruction: str | None = None
    dimensions: int | None = None


@dataclass(frozen=True)
class WordPlan:
    """How BM25 sees words, where it is not as the index has them; language None: as they are."""

    language: str | None


@dataclass(frozen=True)
class Pipeline:
    """How a query is answered; what is None is as the index has it.

    sources: the texts of the sources stand in place of the indexed ones. replica: legs are
    computed from a copy in memory, exactly, as they must be to be compared with what is computed
    anew.
    """

    options: SearchOptions
    vectors: VectorPlan | None = None
    words: WordPlan | None = None
    sources: bool = False
    reranker: str | None = None
    threshold: MinConfidence = None
    replica: bool = False

    def __hash__(self) -> int:
        """Hash what it says: weights and filters may be mappings."""
        return hash(repr(self))

    @property
    def needs_replica(self) -> bool:
        """Whether a leg must be computed anew."""
        return self.replica or self.sources or bool(self.vectors or self.words)


def comparable(a: Pipeline, b: Pipeline) -> tuple[Pipeline, Pipeline]:
    """Return two pipelines on the same ground: both on the index itself, or both on the copy."""
    if a.needs_replica or b.needs_replica:
        return replace(a, replica=True), replace(b, replica=True)
    return a, b
