"""Explain why a document was not found: follow one query through every step."""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opengte.search.filters import matches
from opengte.search.index import Index
from opengte.search.names import nearest_names, typed_document, typed_names
from opengte.search.parse import walk
from opengte.search.retrieval import search
from opengte.search.retrieval.fusion import fuse
from opengte.search.stores.base import ScoredIds, StoredDocument
from opengte.search.stores.listing import list_documents

if TYPE_CHECKING:
    from opengte.encoder import LateInteraction, Reranker

FAR = 10_000  # ranks looked at


@dataclass(frozen=True)
class ExplanationStep:
    """One step: what was found; good is False where the document is lost, None where it is told
    and decides nothing."""

    name: str
    found: str
    good: bool | None = None


@dataclass(frozen=True)
class Explanation:
    """All steps, and the first at which the document was lost (None: it was found)."""

    question: str
    document: str
    steps: tuple[ExplanationStep, ...]

    @property
    def lost_at(self) -> str | None:
        """Return the step that lost the document."""
        decisive = (step for step in self.steps if step.name in ("parsed", "filter", "fused"))
        lost = next((step for step in decisive if step.good is False), None)
        if lost is None:
            last = self.steps[-1]
            return last.name if last.good is False else None
        if lost.name != "fused":
            return lost.name
        legs = [s for s in self.steps if s.name in search.ALL_LEGS or s.name == "exact dense"]
        reached = [step.name for step in legs if step.good]
        if "exact dense" in reached and "dense" not in reached:
            return "approximate index"
        return "fused" if reached else "legs"


def explain(
    index: Index,
    question: str,
    expected: str,
    options: search.SearchOptions,
    reranker: "Reranker | LateInteraction | None",
) -> Explanation:
    """Return what happened to the expected document at each step."""
    document, missing = _find(index, expected)
    if document is None:
        return Explanation(question, expected, (ExplanationStep("parsed", missing, good=False),))
    asked = index.encode_query(question)
    steps = [*_stored(document), _embedded(index, document), _question(index)]
    if options.where is not None:
        good = matches(options.where, document.metadata)
        steps.append(ExplanationStep("filter", "fits" if good else "does not fit", good))
    exact = index.store.dense(asked.vector, FAR, options.where, exact=True)
    steps.append(_place("exact dense", exact, document.id, options.candidates))
    clock = search.StepTimer()
    rankings, _ = search.run_legs(index.store, asked, options, clock)
    for leg, ranking in rankings.items():
        steps.append(_place(leg, ranking, document.id, options.candidates))
    fused = fuse(rankings, options.fusion)
    late = search.late_leg(index.store, fused, asked, options, clock)
    if late is not None:
        rankings["late"] = late[0]
        steps.append(_place("late", late[0], document.id, options.k))
        fused = fuse(rankings, options.fusion)
    shown = search.RERANK_DEPTH if reranker else options.k
    steps.append(_place("fused", fused, document.id, shown))
    answer = search.search(index.store, asked, options, reranker)
    steps.append(_answered(answer, document, reranked=reranker is not None))
    return Explanation(question, document.id, tuple(steps))


def _find(index: Index, expected: str) -> tuple[StoredDocument | None, str]:
    """Return the document, or why it is not there."""
    name = typed_document(index.store, index.roots, expected)
    found = None if name is None else index.store.fetch([name]).get(name)
    if found is not None:
        return found, ""
    path = walk.path_to_id(os.path.abspath(expected))
    names = [expected, path, *index.roots.ids_of(path)]
    sources = {one.id: one for one in index.store.sources()}
    for source in [x for x in names if x in sources] or typed_names(sources, expected):
        skipped = [reason for _, reason in sources[source].skipped]
        reasons = "; ".join(dict.fromkeys([*sources[source].problems, *skipped]))
        return None, f"the file `{source}` gave no document: {reasons or 'no text'}"
    near = nearest_names((one.id for one in list_documents(index.store)), expected)
    meant = f"; similar: {', '.join(f'`{one}`' for one in near)}" if near else ""
    return None, f"no document of this id, and no file of this path, was ever indexed{meant}"


def _stored(document: StoredDocument) -> list[ExplanationStep]:
    warnings = "; ".join(document.warnings) or "no complaints"
    tokens = sum(window.tokens for window in document.windows)
    cut = "a window lost tokens" if document.truncated else "nothing was cut off"
    return [
        ExplanationStep("parsed", f"{len(document.text):,} characters, {warnings}", good=True),
        ExplanationStep(
            "truncated", f"{tokens:,} tokens in {len(document.windows)} windows, {cut}"
        ),
    ]


def _embedded(index: Index, document: StoredDocument) -> ExplanationStep:
    prompt = index.encoder.card.prompts.get("document", "")
    spans = sum(len(window.spans.bounds) for window in document.windows)
    return ExplanationStep(
        "embedded",
        f"by {index.identity.model} ({index.identity.precision}), prompt {prompt!r}, "
        f"{spans} passages ({index.settings['passages']})",
    )


def _question(index: Index) -> ExplanationStep:
    card, instruction = index.encoder.card, index.identity.instruction
    if instruction is None and card.instruction_template is not None:
        return ExplanationStep(
            "question", f"the model's default instruction, {card.default_instruction!r}"
        )
    if instruction is not None:
        return ExplanationStep("question", f"instruction {instruction!r}")
    return ExplanationStep("question", f"prompt {card.prompts.get('query', '')!r}")


def _place(name: str, ranking: ScoredIds, document: str, depth: int) -> ExplanationStep:
    for rank, (other, score) in enumerate(ranking, 1):
        if other == document:
            return ExplanationStep(name, f"rank {rank:,}, score {score:.4f}", good=rank <= depth)
    return ExplanationStep(name, f"not among the first {len(ranking):,}", good=False)


def _answered(
    answer: search.SearchResult, document: StoredDocument, *, reranked: bool
) -> ExplanationStep:
    name = "reranked" if reranked else "answer"
    for hit in answer.hits:
        if hit.id == document.id:
            score = f", score {hit.rerank:.4f}" if hit.rerank is not None else ""
            return ExplanationStep(name, f"rank {hit.rank}{score}", good=True)
        if document.id in hit.duplicates:
            return ExplanationStep(
                name, f"shown as {hit.id} (rank {hit.rank}), nearly the same", good=True
            )
    return ExplanationStep(name, f"not among the {len(answer.hits)} results", good=False)
