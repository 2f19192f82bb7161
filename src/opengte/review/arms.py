"""Arms: what a review changes in the pipeline, one factor at a time."""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from opengte.review.pipeline import Pipeline, Prompts, VectorPlan, WordPlan
from opengte.search.calibration import confidence
from opengte.search.retrieval.fusion import Fusion
from opengte.search.retrieval.search import DEPTH, RERANK_DEPTH

Stage = Literal["data", "model", "retrieval", "workflow"]
WINDOWS = (64, 128)  # tokens that are tried
WEIGHTS = (0.0, 0.5, 1.0, 2.0)  # of words beside vectors that are tried


@dataclass(frozen=True, eq=False)
class Arm:
    """One change; arms of one factor exclude each other, and simpler ones come first.

    embeds names the model that all documents are embedded with again ("" that of the index), None
    where none is; reads names the reranker. tunes: it mends nothing that is broken, but
    may suit the collection better.
    """

    name: str
    factor: str
    stage: Stage
    change: Callable[[Pipeline], Pipeline]
    command: str
    embeds: str | None = None
    reads: str | None = None
    reversible: bool = True
    tunes: bool = False


@dataclass(frozen=True)
class ArmChoices:
    """What arms depend on, beside the live pipeline."""

    place: str
    settings: Mapping[str, Any]
    prompts: Mapping[str, str]
    takes_instruction: bool = False
    titles: bool = False
    differences: Mapping[str, int] | None = None  # kinds of differences to the sources
    sources: str = "SOURCES"
    models: Sequence[str] = ()
    rerankers: Sequence[str] = ()
    languages: Sequence[str | None] = ("English", None)
    windows: Sequence[int] = WINDOWS


def make_arms(live: Pipeline, about: ArmChoices) -> list[Arm]:
    """Return every arm that differs from the live pipeline; those that cost most come last."""
    made = [
        *_data(about),
        *_retrieval(live, about),
        *_workflow(live, about),
        *_rerankers(live, about),
        *_vectors(about),
    ]
    return [arm for arm in made if arm.change(live) != live]


def _with(**values: Any) -> Callable[[Pipeline], Pipeline]:
    return lambda one: replace(one, **values)


def _option(**values: Any) -> Callable[[Pipeline], Pipeline]:
    return lambda one: replace(one, options=replace(one.options, **values))


def _fusion(**values: Any) -> Callable[[Pipeline], Pipeline]:
    def change(one: Pipeline) -> Pipeline:
        fusion = replace(one.options.fusion, **values)
        legs = None if "weights" in values else one.options.legs
        return replace(one, options=replace(one.options, fusion=fusion, legs=legs))

    return change


def _ask(about: ArmChoices, option: str) -> str:
    return f"gte search QUERY --in {shlex.quote(about.place)} {option}".rstrip()


def _data(about: ArmChoices) -> Iterator[Arm]:
    if about.differences:
        told = ", ".join(f"{count:,} {kind}" for kind, count in about.differences.items())
        command = f"gte index run {about.sources} --to {shlex.quote(about.place)}"
        yield Arm(
            f"the texts of the sources ({told})", "sources", "data", _with(sources=True), command
        )


def _retrieval(live: Pipeline, about: ArmChoices) -> Iterator[Arm]:
    yield Arm("exact vectors", "index", "retrieval", _option(exact=True), _ask(about, "--exact"))
    yield from _joined(live, about)
    candidates = DEPTH[live.options.fusion.method]
    for depth in (candidates, 2 * candidates):
        if depth > live.options.candidates:
            text = f"kb.search(query, depth={depth})"
            name = f"{depth} candidates"
            change, tunes = _option(depth=depth), depth > candidates
            yield Arm(name, "candidates", "retrieval", change, text, tunes=tunes)
    if live.options.where is not None:
        change = _option(where=None)
        yield Arm("no filter", "filter", "retrieval", change, _ask(about, "(without --where)"))
    if not live.options.collapse:
        text = "kb.search(query, collapse=True)"
        yield Arm("copies as one", "duplicates", "data", _option(collapse=True), text)
    for language in about.languages:
        if language != about.settings["language"]:
            text = f"gte index run {about.sources} --to NEW --language {language or 'none'}"
            name = f"word endings of {language}" if language else "words as they are"
            change, tunes = _with(words=WordPlan(language)), language is None
            yield Arm(name, "language", "retrieval", change, text, tunes=tunes)


def _joined(live: Pipeline, about: ArmChoices) -> Iterator[Arm]:
    """Yield arms of legs, their weights and how they are fused."""
    fusion, usual = live.options.fusion, Fusion()
    for weight in sorted(WEIGHTS, key=lambda one: one != 1.0):
        if weight != fusion.weight("lexical") or fusion.weight("dense") != 1 or live.options.legs:
            values = None if weight == 1.0 else {"lexical": weight}
            text = _ask(about, f"--weight lexical={weight:g}")
            change = _fusion(weights=values)
            name, tunes = f"weight of words {weight:g}", weight != 1.0
            yield Arm(name, "weights", "retrieval", change, text, tunes=tunes)
    if fusion.weight("dense") > 0:
        change = _fusion(weights={"dense": 0.0})
        text = _ask(about, "--leg lexical")
        yield Arm("words alone", "weights", "retrieval", change, text, tunes=True)
    other = "rrf" if fusion.method == usual.method else usual.method
    text = _ask(about, f"--fusion {other}")
    change, tunes = _fusion(method=other), other != usual.method
    yield Arm(f"fusion {other}", "fusion", "retrieval", change, text, tunes=tunes)


def _workflow(live: Pipeline, about: ArmChoices) -> Iterator[Arm]:
    calibrated = confidence.calibration_of(about.settings)
    if live.threshold is not None and live.threshold != "auto" and calibrated is not None:
        limit = calibrated.accuracy.threshold
        text = _ask(about, "--min-confidence auto")
        name = f"threshold {limit:.2f}, as calibrated"
        yield Arm(name, "threshold", "workflow", _with(threshold="auto"), text)


def _rerankers(live: Pipeline, about: ArmChoices) -> Iterator[Arm]:
    if live.reranker is not None:
        yield Arm("no reranker", "reranker", "model", _with(reranker=None), _ask(about, ""))
        if live.options.reranked < RERANK_DEPTH:
            change = _option(reranked=RERANK_DEPTH)
            text = f"kb.search(query, reranked={RERANK_DEPTH})"
            name, reads = f"reranker reads {RERANK_DEPTH}", live.reranker
            yield Arm(name, "reranked", "retrieval", change, text, reads=reads)
    for name in about.rerankers:
        if name != live.reranker:
            change, text = _with(reranker=name), _ask(about, f"--reranker {shlex.quote(name)}")
            yield Arm(f"reranker {name}", "reranker", "model", change, text, reads=name)


def _vectors(about: ArmChoices) -> Iterator[Arm]:
    model, place = str(about.settings["model"]["model"]), shlex.quote(about.place)
    new = f"gte index run {about.sources} --to NEW --model {shlex.quote(model)}"

    def arm(name: str, plan: VectorPlan, command: str, stage: Stage = "model") -> Arm:
        change, tunes = _with(vectors=plan), bool(plan.window_tokens) or not plan.title
        return Arm(name, "vectors", stage, change, command, embeds=plan.model, tunes=tunes)

    yield arm("the same model again", VectorPlan(), new)
    if any(about.prompts.values()):
        for way in ("exchanged", "none"):
            prompts: Prompts = "exchanged" if way == "exchanged" else "none"
            plan = VectorPlan(prompts=prompts)
            yield arm(f"prompts {way}", plan, f"{new} (a model folder with its prompts {way})")
    if about.takes_instruction and about.settings["model"]["instruction"]:
        switch = f"gte index switch {place} --instruction ''"
        yield arm("no instruction", VectorPlan(instruction=""), switch)
    window = about.settings["window_tokens"]
    if window is not None:
        yield arm(
            "windows as long as the model reads", VectorPlan(window_tokens=0), new, "retrieval"
        )
    for length in about.windows:
        if window is None or length < window:
            text = f"{new} --window-tokens {length}"
            plan = VectorPlan(window_tokens=length)
            yield arm(f"windows of {length} tokens", plan, text, "retrieval")
    if about.titles:
        yield arm("no titles in vectors", VectorPlan(title=False), new, "data")
    for name in about.models:
        switch = f"gte index switch {place} --model {shlex.quote(name)} --hold"
        yield arm(f"model {name}", VectorPlan(model=name), switch)
