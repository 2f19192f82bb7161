"""Published scores, for comparison with measured ones.

`published.tsv.gz` holds model, task, subset, split, points and a letter for the source; the letters
are explained in `suites.json`. Where a model was scored twice, the later version of mteb counts.
"""

import csv
import gzip
import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from opengte.evaluate.records import TaskScore

SOURCES = {
    "R": "github.com/embeddings-benchmark/results, commit f4cc6c8",
    "L": "archived MTEB leaderboard, github.com/embeddings-benchmark/leaderboard, commit ae7c5d4",
}
Key = tuple[str, str, str]  # task, subset, split


@dataclass(frozen=True)
class ScoreComparison:
    """A task's measured and published mean over the subsets that have both scores.

    noise is the noise of the mean; extra counts measured scores without a published counterpart.
    """

    task: str
    type: str
    ours: float
    published: float | None
    noise: float
    sampled: bool
    count: int
    extra: int
    split: str

    @property
    def difference(self) -> float | None:
        """Return ours minus published, in points."""
        return None if self.published is None else self.ours - self.published

    @property
    def differs(self) -> bool:
        """Return whether the difference is more than noise."""
        return self.difference is not None and abs(self.difference) > self.noise


def models_with_scores() -> tuple[str, ...]:
    """Return the models that have published scores."""
    return tuple(_table())


def published_scores(model: str) -> dict[Key, float]:
    """Return the published scores of a model, in points, by task, subset and split.

    >>> scores = published_scores("sentence-transformers/all-MiniLM-L6-v2")
    >>> round(scores["STSBenchmark", "default", "test"], 2)
    82.03
    """
    return _table().get(model, {})


def compare_with_published(model: str, scores: Iterable[TaskScore]) -> list[ScoreComparison]:
    """Return one comparison per task and split, in the order of the scores."""
    published = published_scores(model)
    groups: dict[tuple[str, str], list[TaskScore]] = {}
    for score in scores:
        groups.setdefault((score.task, score.split), []).append(score)
    return [_compare(group, published) for group in groups.values()]


def _compare(group: list[TaskScore], published: dict[Key, float]) -> ScoreComparison:
    both = [score for score in group if (score.task, score.subset, score.split) in published]
    used, first = both or group, group[0]
    theirs = [published[score.task, score.subset, score.split] for score in both]
    return ScoreComparison(
        task=first.task,
        type=first.type,
        ours=sum(score.value for score in used) / len(used),
        published=sum(theirs) / len(theirs) if theirs else None,
        noise=_noise_of_mean(used),
        sampled=first.sampled,
        count=len(used),
        extra=len(group) - len(used),
        split=first.split,
    )


def _noise_of_mean(scores: list[TaskScore]) -> float:
    """Return the noise of a mean: draws are independent from subset to subset, rounding is not."""
    if not scores[0].sampled:
        return max(score.noise for score in scores)
    spread = sum(score.noise**2 for score in scores) ** 0.5 / len(scores)
    return float(max(spread, 0.1))


@cache
def _table() -> dict[str, dict[Key, float]]:
    packed = (files(__package__) / "published.tsv.gz").read_bytes()
    text = io.StringIO(gzip.decompress(packed).decode("utf-8"))
    found: dict[str, dict[Key, float]] = {}
    for row in csv.DictReader(text, delimiter="\t"):
        key = (row["task"], row["subset"], row["split"])
        found.setdefault(row["model"], {})[key] = float(row["score"])
    return found
