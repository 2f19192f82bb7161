"""`review`: from an index, a log and judgments to the next steps. Nothing of the index changes."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, cast

from opengte.errors import AccessError, InputError
from opengte.review.arms import WINDOWS, Arm, ArmChoices, make_arms
from opengte.review.attribution import Attribution, Attributor, Judged
from opengte.review.costs import StepCost, embedding_seconds, step_cost
from opengte.review.judgments import JudgedQuery, label_counts
from opengte.review.labelling import LabelRequest, queries_to_label
from opengte.review.pipeline import Pipeline
from opengte.review.pool import LARGEST, Pool, part_pool, whole_pool
from opengte.review.pseudo import Reliability, agreement, known_items, reliability
from opengte.review.replay import Models, Replay
from opengte.review.sources import compare_sources
from opengte.review.vectors import Texts, VectorMemo
from opengte.search.index import Index
from opengte.search.model_identity import ModelIdentity
from opengte.search.stores.listing import list_documents, store_revision

if TYPE_CHECKING:
    from opengte.encoder import Encoder
    from opengte.search.stores.base import Store

LEAST_QUERIES = 20  # with judgments, from which these decide
PSEUDO_GAIN = 0.03  # by pseudo-judgments, before a step is worth it
DEEP = 100  # results of each query that are certain to be in a pool
Basis = Literal["labels", "pseudo-judgments"]


@dataclass(frozen=True)
class ReviewOptions:
    """What a review may do and spend; price is that of an hour of this machine."""

    seconds: float | None = 600.0
    seed: int = 0
    price: float | None = None
    largest_pool: int = LARGEST
    languages: Sequence[str | None] = ("English", None)
    windows: Sequence[int] = WINDOWS
    sources: str = "SOURCES"


@dataclass(frozen=True)
class Review:
    """What a review found; `requests` are the queries to label where nothing can be told."""

    place: str
    basis: Basis
    attribution: Attribution
    costs: Mapping[str, StepCost]
    labels: Mapping[str, int]
    reliabilities: tuple[Reliability, ...]
    requests: tuple[LabelRequest, ...]
    missing: tuple[tuple[str, str], ...]
    broken: Mapping[str, tuple[str, ...]]  # step -> queries that it breaks
    notes: tuple[str, ...]
    documents: int
    pooled: int
    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


class ReadOnlyStore:
    """A store whose writing methods are refused."""

    WRITES = ("put", "delete", "save_settings", "put_sources", "delete_sources", "optimize")

    def __init__(self, store: "Store") -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if name in self.WRITES:
            message = f"a review only reads: `{name}` would change the index"
            raise AccessError(message, authenticated=True)
        return getattr(self._store, name)


def review(
    index: Index,
    queries: Sequence[JudgedQuery],
    live: Pipeline,
    *,
    missing: Sequence[tuple[str, str]] = (),
    sources: Mapping[str, Texts] | None = None,
    encoder: "Encoder | None" = None,
    models: "Mapping[str, Callable[[], Encoder]] | None" = None,
    rerankers: Mapping[str, Callable[[], Any]] | None = None,
    options: ReviewOptions | None = None,
    cache: VectorMemo | None = None,
    notify: Callable[[str], object] = lambda name: None,
) -> Review:
    """Find what would make the answers of an index better, and what that would cost.

    Args:
        index: The index; it is only read.
        queries: Queries with what is known of their answers, as `judge` returns them.
        live: How queries are answered today.
        missing: Documents that were judged relevant and are not there, by query.
        sources: Documents as they should be, by id; None: they are not known.
        encoder: The model of the index; None: it is loaded.
        models: Other models to try, by name, loaded when it is their turn.
        rerankers: Rerankers to try, and the one of `live`.
        options: Time, price and seed.
        cache: Vectors by text, to be shared between reviews.
        notify: Called with the name of each arm that is begun.

    Raises:
        InputError: There is no query, no document, or no time to do anything.
    """
    chosen, start = options or ReviewOptions(), time.monotonic()
    if not queries:
        raise InputError("there is no query to review: expected a log with at least one")
    store, revision = cast("Store", ReadOnlyStore(index.store)), store_revision(index.store)
    held = Models(_live_model(index, encoder), models or {}, rerankers or {})
    replay = _replay(store, index.settings, held, queries, live, sources, chosen, cache)
    about = _choices(index, replay, live, chosen)
    arms = make_arms(live, about)
    deadline = None if chosen.seconds is None else start + chosen.seconds
    basis, asked, trust = _questions(replay, live, queries, arms, chosen)
    attributor = Attributor(
        replay,
        asked,
        deadline,
        cost=lambda arm: embedding_seconds(arm, replay),
        notify=notify,
    )
    if basis != "labels":
        attributor.least_gain = PSEUDO_GAIN
    found = attributor.run(live, arms)
    notes = _notes(index, revision, replay, queries, found, asked)
    requests = queries_to_label(replay, found, queries) if not found.steps or trust else []
    tried = [one.alone for one in found.steps] + list(found.arms)
    return Review(
        place=index.place,
        basis=basis,
        attribution=found,
        costs={one.arm.name: step_cost(one.arm, replay, live, chosen.price) for one in tried},
        labels={str(name): count for name, count in label_counts(queries).items()},
        reliabilities=tuple(trust),
        requests=tuple(requests),
        missing=tuple(missing),
        broken={one.alone.arm.name: _broken(replay, live, one.alone, asked) for one in found.steps},
        notes=tuple(notes),
        documents=replay.pool.total,
        pooled=len(replay.pool.documents),
        seconds=time.monotonic() - start,
    )


def _live_model(index: Index, encoder: "Encoder | None") -> "Encoder":
    """Return the model of an index without writing anything; InputError if it is another."""
    identity = index.identity
    if encoder is None:
        if index.load is not None:
            encoder = index.load(identity)
        else:
            from opengte.encoder import Encoder

            encoder = Encoder.load(
                identity.model, precision=identity.precision, max_length=identity.max_length
            )
    used = ModelIdentity.of(encoder.card, identity.instruction)
    identity.adopt(encoder).check(used, index.place)
    return encoder


def _replay(
    store: "Store",
    settings: Mapping[str, Any],
    models: Models,
    queries: Sequence[JudgedQuery],
    live: Pipeline,
    sources: Mapping[str, Texts] | None,
    options: ReviewOptions,
    cache: VectorMemo | None,
) -> Replay:
    total = store.count()
    if not total:
        raise InputError("the index has no documents: there is nothing to review")
    if total <= options.largest_pool:
        pool = whole_pool(store)
    else:
        pool = _part(store, settings, models, queries, live, options, cache)
    if sources is not None:
        present = {one.id for one in list_documents(store)}
        pool.differences = compare_sources(pool.documents, sources, present)
    return Replay(store, settings, pool, models, cache)


def _part(
    store: "Store",
    settings: Mapping[str, Any],
    models: Models,
    queries: Sequence[JudgedQuery],
    live: Pipeline,
    options: ReviewOptions,
    cache: VectorMemo | None,
) -> Pool:
    """Return the pool of a large index: what each leg finds, what is judged, and a sample."""
    first = Replay(store, settings, Pool({}), models, cache)
    wide = replace(live, options=replace(live.options, depth=DEEP, where=None, exact=True))
    certain: set[str] = set()
    for query in queries:
        certain |= {name for leg in first.legs(wide, query.text).values() for name, _ in leg}
        certain |= set(query.relevant or {})
    return part_pool(store, certain, seed=options.seed)


def _choices(index: Index, replay: Replay, live: Pipeline, options: ReviewOptions) -> ArmChoices:
    card = replay.models.live.card
    return ArmChoices(
        place=index.place,
        settings=index.settings,
        prompts=card.prompts,
        takes_instruction=card.instruction_template is not None,
        titles=any(one.title for one in replay.pool.documents.values()),
        differences=replay.pool.differences.counts(),
        sources=options.sources,
        models=tuple(replay.models.others),
        rerankers=tuple(replay.models.rerankers),
        languages=options.languages,
        windows=options.windows,
    )


def _questions(
    replay: Replay,
    live: Pipeline,
    queries: Sequence[JudgedQuery],
    arms: Sequence[Arm],
    options: ReviewOptions,
) -> tuple[Basis, list[JudgedQuery], list[Reliability]]:
    """Return what the decision rests on: labels if there are enough, else pseudo-judgments."""
    judged = [one for one in queries if one.judged or (one.relevant == {} and live.threshold)]
    if len(judged) >= LEAST_QUERIES:
        return "labels", judged, []
    made = {
        "known item": known_items(replay, seed=options.seed),
        "agreement": agreement(replay, live, queries, list(replay.models.others)),
    }
    trust = [reliability(origin, pseudo, judged) for origin, pseudo in made.items()]
    asked = [*judged, *(one for several in made.values() for one in several)]
    return "pseudo-judgments", asked, trust


def _broken(
    replay: Replay, live: Pipeline, one: Judged, queries: Sequence[JudgedQuery]
) -> tuple[str, ...]:
    from opengte.review.pipeline import comparable

    before, after = comparable(live, one.arm.change(live))
    return tuple(
        query.text
        for query in queries
        if replay.succeeds(before, query) and not replay.succeeds(after, query)
    )


def _notes(
    index: Index,
    revision: object,
    replay: Replay,
    queries: Sequence[JudgedQuery],
    found: Attribution,
    asked: Sequence[JudgedQuery],
) -> list[str]:
    notes = []
    if store_revision(index.store) != revision or not index.is_live():
        notes.append(
            "the index changed during the review: some answers are of before, some of after; "
            "review it again when nothing is written"
        )
    if len(queries) < LEAST_QUERIES:
        notes.append(
            f"{len(queries)} queries show only large differences: with so few, expected at least "
            f"{LEAST_QUERIES}"
        )
    if found.failed == 0:
        notes.append("no query failed: each has a right answer among its results")
    pool = replay.pool
    if pool.sampled:
        notes.append(
            f"{len(pool.documents):,} of {pool.total:,} documents were computed anew: all that a "
            f"leg finds, and {len(pool.sampled):,} of the others, each of which stands for "
            f"{pool.share:.1f} when ranks are counted"
        )
    return notes
