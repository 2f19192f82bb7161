"""What a step costs: milliseconds a query, bytes, hours and money, from rates measured here."""

from dataclasses import dataclass
from statistics import median

from opengte.review.arms import Arm
from opengte.review.pipeline import Pipeline
from opengte.review.replay import Replay

FLOAT = 4  # bytes
UNKNOWN_RATE = 5_000.0  # tokens a second, before anything was measured


@dataclass(frozen=True)
class StepCost:
    """Costs of a step; None: not known. query_ms is what a query takes more (below 0: less)."""

    query_ms: float | None
    vector_bytes: int | None
    hours: float | None
    money: float | None
    documents: int


def step_cost(arm: Arm, replay: Replay, live: Pipeline, price: float | None) -> StepCost:
    """Return what an arm costs once and with each query."""
    pool = replay.pool
    documents, tokens, windows = 0, 0, 0
    if arm.embeds is not None or arm.factor == "language":
        scale = pool.total / max(1, len(pool.documents))
        held = [window for one in pool.documents.values() for window in one.windows]
        documents = pool.total
        tokens = int(scale * sum(window.tokens for window in held))
        windows = int(scale * len(held))
    elif arm.factor == "sources":
        documents = len(pool.differences.texts)
        each = [window.tokens for one in pool.documents.values() for window in one.windows]
        tokens = int(documents * sum(each) / max(1, len(pool.documents)))
    rate = replay.vectors.tokens_per_second
    hours = tokens / rate / 3600 if rate else (0.0 if not tokens else None)
    size = None
    if arm.embeds is not None:
        plan = arm.change(live).vectors
        size = windows * replay.encoder(plan).card.dimension * FLOAT
    money = None if price is None or hours is None else hours * price
    return StepCost(_query_ms(arm, replay, live), size, hours, money, documents)


def _query_ms(arm: Arm, replay: Replay, live: Pipeline) -> float | None:
    seconds = {name: median(values) for name, values in replay.seconds.items() if values}
    if arm.factor == "index":
        both = seconds.get("exact dense"), seconds.get("dense")
        return None if None in both else 1000 * (both[0] - both[1])  # type: ignore[operator]
    if arm.factor in ("reranker", "reranked"):
        after = arm.change(live)
        before_ms, after_ms = (_reranking_ms(one, seconds) for one in (live, after))
        return None if before_ms is None or after_ms is None else after_ms - before_ms
    if arm.embeds:
        both = seconds.get(f"embed {arm.embeds}"), seconds.get("embed ")
        return None if None in both else 1000 * (both[0] - both[1])  # type: ignore[operator]
    return 0.0


def _reranking_ms(one: Pipeline, seconds: dict[str, float]) -> float | None:
    if one.reranker is None:
        return 0.0
    each = seconds.get(f"rerank {one.reranker}")
    return None if each is None else 1000 * each * one.options.reranked


def embedding_seconds(arm: Arm, replay: Replay) -> float:
    """Return about how long an arm takes, from the rate measured so far."""
    if arm.embeds is None:
        return 0.0
    held = [window.tokens for one in replay.pool.documents.values() for window in one.windows]
    return sum(held) / (replay.vectors.tokens_per_second or UNKNOWN_RATE)
