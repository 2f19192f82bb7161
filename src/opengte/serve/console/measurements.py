"""What was measured on this very server: speed and fidelity of a model, and the load."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from opengte.errors import OpenGTEError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.console.catalog import Speed
from opengte.serve.observability.load_history import LoadHistory
from opengte.serve.observability.metric_definitions import TIME_BUCKETS
from opengte.serve.observability.metrics import Metrics
from opengte.types import ModelCard


@dataclass(frozen=True)
class Load:
    """The last minute of all workers; p50 is in seconds, of whole requests."""

    requests: int
    failed: int
    tokens_per_second: float
    p50: float | None
    queued_tokens: int


@dataclass(frozen=True)
class Fidelity:
    """Cosines of the precision that runs to fp32, on a fixed set of texts; date is a day."""

    lowest: float
    mean: float
    date: str


def speeds(metrics: Metrics) -> dict[str, Speed]:
    """Return the speed of each model that computed something, from the metrics of all workers."""
    sums: dict[str, dict[str, tuple[float, ...]]] = {}
    for series in metrics.store.collect():
        if series.family.name in ("opengte_batch_seconds", "opengte_batch_tokens"):
            sums.setdefault(series.labels["model"], {})[series.family.name] = series.values
    found = {}
    for model, values in sums.items():
        seconds, tokens = values.get("opengte_batch_seconds"), values.get("opengte_batch_tokens")
        if seconds and tokens and seconds[-1] > 0:
            found[model] = Speed(tokens[-1] / seconds[-1], _median(seconds[:-1]), int(tokens[-1]))
    return found


def _median(buckets: Sequence[float]) -> float | None:
    """Return the upper edge of the bucket with the median."""
    seen, total = 0.0, sum(buckets)
    for edge, count in zip(TIME_BUCKETS, buckets, strict=False):
        seen += count
        if total and seen >= total / 2:
            return float(edge)
    return None


def load_of(history: LoadHistory) -> Load:
    """Return the load of the last minute."""
    rows = history.seconds(int(time.time()) - 62)
    medians = [row["p50"] for row in rows if row["p50"] is not None]
    return Load(
        requests=int(sum(row["requests"] or 0 for row in rows)),
        failed=int(sum(row["failed"] or 0 for row in rows)),
        tokens_per_second=sum(row["tokens"] or 0 for row in rows) / max(1, len(rows)),
        p50=statistics.median(medians) if medians else None,
        queued_tokens=int(rows[-1]["queue"] or 0) if rows else 0,
    )


class FidelityReader:
    """Reads what the engine measured when it chose a precision; each model once."""

    def __init__(self, models: Sequence[ModelSettings]) -> None:
        self._models: Mapping[str, ModelSettings] = {each.name: each for each in models}
        self._known: dict[str, Fidelity | None] = {}

    def read(self, card: ModelCard) -> Fidelity | None:
        """Return the fidelity of a loaded model, or None if it was not measured. Blocks."""
        settings = self._models.get(card.name)
        if settings is None or card.engine != "native" or card.precision is None:
            return None
        if card.fingerprint not in self._known:
            self._known[card.fingerprint] = _recorded(settings, card.precision)
        return self._known[card.fingerprint]


def _recorded(settings: ModelSettings, precision: str) -> Fidelity | None:
    from opengte.checkpoint import read_checkpoint
    from opengte.engine.native import recorded_precisions

    try:
        checkpoint = read_checkpoint(settings.source, revision=settings.revision, offline=True)
        trials, measured = recorded_precisions(checkpoint)
    except (OpenGTEError, OSError):
        return None
    day = time.strftime("%Y-%m-%d", time.gmtime(measured))
    for trial in trials:
        if trial.precision == precision:
            return Fidelity(trial.lowest, trial.mean, day)
    return None
