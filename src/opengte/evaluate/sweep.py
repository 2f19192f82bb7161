"""Sweep over settings of one model: quality against cost, and the Pareto front."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from opengte.evaluate.compare import result_data
from opengte.evaluate.dataset import RetrievalDataset
from opengte.evaluate.report import Cell, EvaluationReport, ReportSection, ReportTable
from opengte.evaluate.systems import RetrievalSystem, SystemCost, SystemResult
from opengte.svg import ScatterPoint, scatter_plot


@dataclass(frozen=True)
class CostAxis:
    """One kind of cost: smaller is better."""

    title: str
    label: str
    of: Callable[[SystemCost], float]


AXES = (
    CostAxis("Time to encode", "ms a document", lambda c: c.document_ms),
    CostAxis("Time to answer", "ms a query", lambda c: c.query_ms),
    CostAxis("Space", "bytes a vector", lambda c: c.vector_bytes),
)


def sweep_systems(base: RetrievalSystem, **choices: Sequence[Any]) -> list[RetrievalSystem]:
    """Return a system for each combination of choices; an empty choice keeps the base's setting.

    A reranking depth of 0 means no reranking. Systems that share vectors are adjacent.

    >>> base = RetrievalSystem("minilm")
    >>> [system.dimensions for system in sweep_systems(base, dimensions=[64, 128])]
    [64, 128]
    """
    given = {name: values for name, values in choices.items() if values}
    systems = [
        _without_reranker(replace(base, **dict(zip(given, values, strict=True))))
        for values in product(*given.values())
    ]
    groups: dict[RetrievalSystem, list[RetrievalSystem]] = {}
    for system in dict.fromkeys(systems):
        groups.setdefault(system.vectors, []).append(system)
    return [system for group in groups.values() for system in group]


def _without_reranker(system: RetrievalSystem) -> RetrievalSystem:
    if system.depth == 0 or system.reranker is None:
        return replace(system, reranker=None, depth=RetrievalSystem.depth)
    return system


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return which (cost, quality) points lie on the Pareto front; equal points all do.

    >>> pareto_front([(1.0, 5.0), (2.0, 6.0), (3.0, 5.5)])
    [True, True, False]
    """
    return [
        not any(
            cost <= mine[0] and quality >= mine[1] and (cost, quality) != mine
            for cost, quality in points
        )
        for mine in points
    ]


def sweep_report(
    found: Sequence[SystemResult], dataset: RetrievalDataset, measure: str
) -> EvaluationReport:
    """Return the report of a sweep.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> from opengte.evaluate.systems import ModelLoaders, evaluate_systems, parse_system
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> systems = [parse_system("minilm"), parse_system("minilm,dimensions=64")]
    >>> loaders = ModelLoaders(encoder=lambda system: Encoder.load(system.model), reranker=None)
    >>> a, b = evaluate_systems(systems, dataset, loaders)
    >>> sweep_report([a, b], dataset, "nDCG@10").title
    'minilm on faq.csv: quality and cost'
    """
    best = max(found, key=lambda outcome: outcome.mean(measure))
    names = _names(found)
    return EvaluationReport(
        title=f"{found[0].system.model} on {dataset.name}: quality and cost",
        verdict=sweep_verdict(found, measure),
        sections=[
            ReportSection("Settings", tables=[_table(found, names, measure, best)]),
            *(_plot(axis, found, names, measure) for axis in AXES),
        ],
        facts={
            "model": found[0].system.model,
            "fingerprint": str(found[0].about.get("fingerprint")),
            "data": dataset.name,
            "documents": len(dataset.documents),
            "queries": len(dataset.queries),
            "notes": "; ".join(dataset.notes) or None,
        },
        data={"measure": measure, "systems": [result_data(outcome) for outcome in found]},
    )


def sweep_verdict(found: Sequence[SystemResult], measure: str) -> str:
    """Return the best setting, and the smallest one within one point of it.

    >>> from pathlib import Path
    >>> from opengte.evaluate.dataset import load_dataset
    >>> from opengte.evaluate.systems import ModelLoaders, evaluate_systems, parse_system
    >>> _ = Path("faq.csv").write_text("question,answer\\nwho purrs,a cat\\nwho barks,a dog\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> systems = [parse_system("minilm"), parse_system("minilm,dimensions=64")]
    >>> loaders = ModelLoaders(encoder=lambda system: Encoder.load(system.model), reranker=None)
    >>> a, b = evaluate_systems(systems, dataset, loaders)
    >>> sweep_verdict([a, b], "nDCG@10").startswith("Best nDCG@10: ")
    True
    """
    names = dict(zip(map(id, found), _names(found), strict=True))
    best = max(found, key=lambda outcome: outcome.mean(measure))
    top = best.mean(measure)
    enough = [outcome for outcome in found if outcome.mean(measure) >= top - 1]
    small = min(enough, key=lambda outcome: (outcome.cost.vector_bytes, outcome.cost.query_ms))
    text = f"Best {measure}: {top:.2f} with {names[id(best)]}."
    if small is best:
        return text
    return (
        f"{text} Within one point of it at the least space: {names[id(small)]}, "
        f"{small.mean(measure):.2f} with {small.cost.vector_bytes:,} bytes a vector instead of "
        f"{best.cost.vector_bytes:,}. `gte eval compare` says whether a difference is real."
    )


def _names(found: Sequence[SystemResult]) -> list[str]:
    """Return names that distinguish the settings."""
    names = [f.name for f in fields(RetrievalSystem)]
    varied = [n for n in names if len({getattr(o.system, n) for o in found}) > 1]
    return [_name(outcome.system, varied) for outcome in found]


def _name(system: RetrievalSystem, varied: Sequence[str]) -> str:
    if system.reranker is None:
        varied = [name for name in varied if name not in ("reranker", "depth")]
    given = [(name, getattr(system, name)) for name in varied]
    parts = [f"{name} {value}" for name, value in given if value is not None]
    return ", ".join(parts) or "default settings"


def _table(
    found: Sequence[SystemResult], names: Sequence[str], measure: str, best: SystemResult
) -> ReportTable:
    rows: list[tuple[Cell, ...]] = [
        (
            place,
            name,
            outcome.mean(measure),
            outcome.mean("R@100"),
            outcome.cost.tokens_per_second,
            outcome.cost.document_ms,
            outcome.cost.query_ms,
            outcome.cost.vector_bytes,
            outcome.cost.truncated,
        )
        for place, (name, outcome) in enumerate(zip(names, found, strict=True), 1)
    ]
    costs = ("tokens/s", "ms a document", "ms a query", "bytes", "truncated")
    header = ("no.", "settings", measure, "R@100", *costs)
    return ReportTable(header, rows, frozenset({list(found).index(best)}))


def _plot(
    axis: CostAxis, found: Sequence[SystemResult], names: Sequence[str], measure: str
) -> ReportSection:
    places = [(axis.of(outcome.cost), outcome.mean(measure)) for outcome in found]
    points = [
        ScatterPoint(*place, label=str(number), about=name, best=best)
        for number, (place, name, best) in enumerate(
            zip(places, names, pareto_front(places), strict=True), 1
        )
    ]
    text = "Numbers refer to the table; the line joins the Pareto front."
    plot = scatter_plot(points, axis.label, f"{measure}, points", logarithmic=True)
    return ReportSection(axis.title, text, plot)
