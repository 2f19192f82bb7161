"""Compare two systems on the same data: which is better, by how much, and with what power."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from opengte.errors import InputError
from opengte.evaluate.dataset import RetrievalDataset
from opengte.evaluate.report import Cell, EvaluationReport, ReportSection, ReportTable
from opengte.evaluate.significance import (
    ALPHA,
    PairedTest,
    holm_correction,
    paired_test,
    queries_needed,
)
from opengte.evaluate.systems import SystemResult
from opengte.svg import Interval, interval_plot

MOVED = 10  # queries shown
SHOWN = 5  # documents of each ranking shown
SMALLEST_SEGMENT = 10  # queries


@dataclass(frozen=True)
class SegmentComparison:
    """One group of queries; p is corrected for the number of groups."""

    name: str
    result: PairedTest
    p: float


@dataclass(frozen=True)
class ChangedQuery:
    """A query on which two systems differ: each system's value and top documents."""

    query: str
    text: str
    a: float
    b: float
    first_a: tuple[str, ...]
    first_b: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SystemComparison:
    """System b compared with system a by a measure; differences are in points."""

    measure: str
    a: SystemResult
    b: SystemResult
    results: Mapping[str, PairedTest]  # by measure
    segments: Sequence[SegmentComparison]
    skipped: Sequence[str]  # segments with too few queries
    moved: Sequence[ChangedQuery]

    @property
    def main(self) -> PairedTest:
        """Return the result of the measure that decides."""
        return self.results[self.measure]


def compare_systems(
    a: SystemResult,
    b: SystemResult,
    dataset: RetrievalDataset,
    *,
    measure: str = "nDCG@10",
    seed: int = 0,
) -> SystemComparison:
    """Compare the results of two systems on the same queries, with a paired randomisation test.

    measure decides the verdict; seed determines the resampling. Raises InputError for an unknown
    measure, and MissingExtraError without scipy.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> from opengte.evaluate.systems import ModelLoaders, evaluate_systems, parse_system
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> systems = [parse_system("minilm"), parse_system("minilm,dimensions=64")]
    >>> loaders = ModelLoaders(encoder=lambda system: Encoder.load(system.model), reranker=None)
    >>> a, b = evaluate_systems(systems, dataset, loaders)
    >>> compare_systems(a, b, dataset).main.n
    2
    """
    if measure not in a.measures:
        raise InputError(f"measure is {measure!r}, expected one of {', '.join(a.measures)}")
    queries = list(dataset.queries)
    results = {name: _paired(a, b, name, queries, seed) for name in a.measures}
    segments, skipped = _segments(a, b, dataset, measure, seed)
    moved = _moved(a, b, dataset, measure)
    return SystemComparison(measure, a, b, results, segments, skipped, moved)


def _paired(
    a: SystemResult, b: SystemResult, measure: str, queries: Sequence[str], seed: int
) -> PairedTest:
    left, right = ([100 * o.measures[measure][query] for query in queries] for o in (a, b))
    return paired_test(left, right, seed=seed)


def _segments(
    a: SystemResult, b: SystemResult, dataset: RetrievalDataset, measure: str, seed: int
) -> tuple[list[SegmentComparison], list[str]]:
    groups: dict[str, list[str]] = {}
    for query in dataset.queries:
        if query in dataset.segments:
            groups.setdefault(dataset.segments[query], []).append(query)
    skipped = [name for name, queries in groups.items() if len(queries) < SMALLEST_SEGMENT]
    results = {
        name: _paired(a, b, measure, queries, seed)
        for name, queries in sorted(groups.items())
        if name not in skipped
    }
    corrected = holm_correction({name: result.p for name, result in results.items()})
    return [SegmentComparison(name, results[name], corrected[name]) for name in results], sorted(
        skipped
    )


def _moved(
    a: SystemResult, b: SystemResult, dataset: RetrievalDataset, measure: str
) -> list[ChangedQuery]:
    left, right = a.measures[measure], b.measures[measure]
    order = sorted(dataset.queries, key=lambda query: -abs(right[query] - left[query]))
    return [
        ChangedQuery(
            query,
            dataset.queries[query],
            100 * left[query],
            100 * right[query],
            tuple(list(a.rankings[query])[:SHOWN]),
            tuple(list(b.rankings[query])[:SHOWN]),
        )
        for query in order[:MOVED]
        if left[query] != right[query]
    ]


def comparison_verdict(comparison: SystemComparison) -> str:
    """Return the decision in two or three sentences.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> from opengte.evaluate.systems import ModelLoaders, evaluate_systems, parse_system
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> systems = [parse_system("minilm"), parse_system("minilm,dimensions=64")]
    >>> loaders = ModelLoaders(encoder=lambda system: Encoder.load(system.model), reranker=None)
    >>> a, b = evaluate_systems(systems, dataset, loaders)
    >>> print(comparison_verdict(compare_systems(a, a, dataset)))
    minilm and minilm give the same nDCG@10 for every one of 2 queries.
    """
    result, measure = comparison.main, comparison.measure
    a, b = comparison.a.system.label, comparison.b.system.label
    means = f"{measure} {result.mean_b:.2f} against {result.mean_a:.2f}"
    if result.changed == 0:
        return f"{b} and {a} give the same {measure} for every one of {result.n:,} queries."
    numbers = (
        f"difference {result.difference:+.2f} points, 95 % interval {result.low:+.2f} to "
        f"{result.high:+.2f}, p {_sign(result.p)}, {result.n:,} queries"
    )
    if result.p < ALPHA:
        which = "better" if result.difference > 0 else "worse"
        return f"{b} is {which} than {a}: {means} ({numbers})."
    largest = max(abs(result.low), abs(result.high))
    return (
        f"No difference larger than {largest:.2f} points between {b} and {a}: {means} ({numbers}). "
        f"{_power(result)}"
    )


def _power(result: PairedTest) -> str:
    """Return the difference that this number of queries could have detected."""
    if result.detectable is None:
        return "A single query cannot show a difference."
    could = (
        f"{result.n:,} queries like these show a true difference of {result.detectable:.2f} points "
        "in four of five cases"
    )
    if result.needed is None:
        return f"{could}."
    return f"{could}; for one as small as this, you would need about {result.needed:,} queries."


def _sign(value: float) -> str:
    return _p(value) if value < 0.001 else f"= {_p(value)}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def comparison_report(
    comparison: SystemComparison, dataset: RetrievalDataset, seconds: float | None = None
) -> EvaluationReport:
    """Return the report of a comparison.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> from opengte.evaluate.systems import ModelLoaders, evaluate_systems, parse_system
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> systems = [parse_system("minilm"), parse_system("minilm,dimensions=64")]
    >>> loaders = ModelLoaders(encoder=lambda system: Encoder.load(system.model), reranker=None)
    >>> a, b = evaluate_systems(systems, dataset, loaders)
    >>> comparison_report(compare_systems(a, b, dataset), dataset).title
    'minilm and minilm, dimensions=64 on faq.csv'
    """
    a, b = comparison.a, comparison.b
    return EvaluationReport(
        title=f"{a.system.label} and {b.system.label} on {dataset.name}",
        verdict=comparison_verdict(comparison),
        sections=[
            _measures(comparison),
            _effort(comparison),
            *_by_segment(comparison),
            _needed(comparison),
            *_notes(dataset),
            *_rankings(comparison, dataset),
        ],
        facts=_facts(comparison, dataset, seconds),
        data={
            "measure": comparison.measure,
            "systems": [result_data(outcome) for outcome in (a, b)],
            "results": {name: asdict(result) for name, result in comparison.results.items()},
            "segments": [asdict(segment) for segment in comparison.segments],
            "moved": [asdict(moved) for moved in comparison.moved],
            "notes": list(dataset.notes),
        },
    )


def result_data(outcome: SystemResult) -> dict[str, object]:
    """Return an outcome for machines, with each query's values for `gte eval check`.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> from opengte.evaluate.systems import ModelLoaders, evaluate_systems, parse_system
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> systems = [parse_system("minilm"), parse_system("minilm,dimensions=64")]
    >>> loaders = ModelLoaders(encoder=lambda system: Encoder.load(system.model), reranker=None)
    >>> a, b = evaluate_systems(systems, dataset, loaders)
    >>> result_data(b)["label"]
    'minilm, dimensions=64'
    """
    return {
        "label": outcome.system.label,
        "system": asdict(outcome.system),
        "about": dict(outcome.about),
        "cost": asdict(outcome.cost),
        "measures": {name: dict(values) for name, values in outcome.measures.items()},
    }


def _measures(comparison: SystemComparison) -> ReportSection:
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            result.mean_a,
            result.mean_b,
            result.difference,
            f"{result.low:+.2f} to {result.high:+.2f}",
            _p(result.p),
            result.detectable,
            result.changed,
        )
        for name, result in comparison.results.items()
    ]
    header = ("", "A", "B", "B − A", "95 % interval", "p", "detectable", "queries changed")
    plot = interval_plot(
        [Interval(n, r.difference, r.low, r.high) for n, r in comparison.results.items()],
        "B − A, points",
    )
    strong = frozenset(i for i, r in enumerate(comparison.results.values()) if r.p < ALPHA)
    text = (
        f"A is {comparison.a.system.label}. B is {comparison.b.system.label}. Points. p comes from "
        "a paired randomisation test, the interval from a bootstrap over queries. Detectable is "
        "the smallest true difference that this many queries show in four of five cases. "
        f"{comparison.measure} decides; the others are shown for orientation, uncorrected."
    )
    return ReportSection("Quality", text, plot, [ReportTable(header, rows, strong)])


def _effort(comparison: SystemComparison) -> ReportSection:
    rows: list[tuple[Cell, ...]] = [
        (
            name,
            outcome.cost.tokens_per_second,
            outcome.cost.document_ms,
            outcome.cost.query_ms,
            outcome.cost.vector_bytes,
            outcome.cost.truncated,
        )
        for name, outcome in (("A", comparison.a), ("B", comparison.b))
    ]
    costs = ("tokens/s", "ms a document", "ms a query", "bytes a vector", "texts truncated")
    header = ("", *costs)
    return ReportSection("Cost", tables=[ReportTable(header, rows, digits=1)])


def _by_segment(comparison: SystemComparison) -> list[ReportSection]:
    if not comparison.segments:
        return []
    rows: list[tuple[Cell, ...]] = [
        (s.name, s.result.n, s.result.mean_a, s.result.mean_b, s.result.difference, _p(s.p))
        for s in comparison.segments
    ]
    header = ("segment", "queries", "A", "B", "B − A", "p, corrected")
    plot = interval_plot(
        [
            Interval(s.name, s.result.difference, s.result.low, s.result.high)
            for s in comparison.segments
        ],
        f"B − A, {comparison.measure}, points",
    )
    strong = frozenset(place for place, s in enumerate(comparison.segments) if s.p < ALPHA)
    text = "p is corrected for the number of segments (Holm)."
    if comparison.skipped:
        names = ", ".join(comparison.skipped)
        text += f" Fewer than {SMALLEST_SEGMENT} queries, not tested: {names}."
    return [ReportSection("By segment", text, plot, [ReportTable(header, rows, strong)])]


def _needed(comparison: SystemComparison) -> ReportSection:
    """Return how many queries would show differences of several sizes."""
    name = comparison.measure
    a, b = comparison.a.measures[name], comparison.b.measures[name]
    deltas = np.array([100 * (b[query] - a[query]) for query in a])
    rows = [(f"{size:g} points", queries_needed(deltas, size)) for size in (0.5, 1.0, 2.0, 5.0)]
    text = "For queries like these, with power 0.8 at the 5 % level."
    table = ReportTable(("to show a true difference of", "queries needed"), rows)
    return ReportSection("How many queries would it take?", text, tables=[table])


def _notes(dataset: RetrievalDataset) -> list[ReportSection]:
    if not dataset.notes:
        return []
    return [ReportSection("About the data", "\n\n".join(f"{note}." for note in dataset.notes))]


def _rankings(comparison: SystemComparison, dataset: RetrievalDataset) -> list[ReportSection]:
    """Return the queries that moved most, both rankings side by side."""
    tables = [
        ReportSection(
            f"{moved.text[:120]} ({moved.a:.1f} → {moved.b:.1f})",
            tables=[ReportTable(("", "A", "B"), _side_by_side(moved, dataset))],
            folded=True,
        )
        for moved in comparison.moved
    ]
    if not tables:
        return []
    text = f"By {comparison.measure}; ● marks a relevant document."
    return [ReportSection("Queries that moved most", text), *tables]


def _side_by_side(moved: ChangedQuery, dataset: RetrievalDataset) -> list[tuple[Cell, ...]]:
    relevant = dataset.qrels[moved.query]
    count = max(len(moved.first_a), len(moved.first_b))
    sides = [
        [_document(key, relevant, dataset) for key in first] + [""] * (count - len(first))
        for first in (moved.first_a, moved.first_b)
    ]
    return [(str(rank), *row) for rank, row in enumerate(zip(*sides, strict=True), 1)]


def _document(key: str, relevant: Mapping[str, int], dataset: RetrievalDataset) -> str:
    text = " ".join(dataset.documents[key].split())
    return f"{'● ' if key in relevant else ''}{key}: {text[:90]}{'…' if len(text) > 90 else ''}"


def _facts(
    comparison: SystemComparison, dataset: RetrievalDataset, seconds: float | None
) -> dict[str, Cell]:
    facts: dict[str, Cell] = {
        "data": dataset.name,
        "documents": len(dataset.documents),
        "queries": len(dataset.queries),
    }
    for name, outcome in (("A", comparison.a), ("B", comparison.b)):
        about = ", ".join(f"{key} {value}" for key, value in outcome.about.items())
        facts[name] = f"{outcome.system.label}; {about}"
    return {**facts, "seconds": None if seconds is None else round(seconds, 1)}
