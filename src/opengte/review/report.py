"""What a review says: the verdict, ranked steps, all arms, and which queries to label."""

from dataclasses import asdict
from typing import Any

from opengte.evaluate.report import EvaluationReport, ReportSection, ReportTable
from opengte.evaluate.significance import ALPHA
from opengte.review.attribution import ChosenStep, Judged
from opengte.review.costs import StepCost
from opengte.review.redaction import Redactor
from opengte.review.run import Review
from opengte.svg import Interval, interval_plot

SHOWN = 5  # queries of a list


def review_report(found: Review, redactor: Redactor) -> EvaluationReport:
    """Return a review as a report; queries in it are redacted."""
    sections = [
        _steps(found),
        _details(found, redactor),
        _arms(found),
        _labels(found, redactor),
        _missing(found, redactor),
        _trust(found),
    ]
    title = f"Review of {found.place}"
    kept = [one for one in sections if one is not None]
    facts = {
        "queries": found.attribution.queries,
        "judged by": found.basis,
        "documents": found.documents,
        "computed anew": found.pooled,
        "nDCG@10 now": round(found.attribution.quality, 4),
        "queries that failed": found.attribution.failed,
        "test": f"paired randomisation, Holm over {len(found.attribution.arms)} arms, {ALPHA:g}",
        "seconds": round(found.seconds, 1),
    }
    facts |= {f"labels: {name}": count for name, count in found.labels.items()}
    return EvaluationReport(title, verdict(found), kept, facts, review_data(found, redactor))


def verdict(found: Review) -> str:
    """Return what to do next, or that nothing can be told and what would help."""
    parts = []
    steps = found.attribution.steps
    if steps:
        one = steps[0]
        parts.append(
            f"Next step: {one.alone.arm.name} ({one.alone.arm.stage}). Expected gain "
            f"{_points(one.expected)} [{_points(one.low)} to {_points(one.high)}] nDCG@10, in "
            f"points, by {found.attribution.queries} {found.basis}: "
            f"`{one.alone.arm.command}`."
        )
    else:
        spread = [x.detectable for x in found.attribution.arms if x.detectable]
        least = f" {_points(max(spread))} points or more would show." if spread else ""
        parts.append(
            f"Nothing can be told with these {found.attribution.queries} {found.basis}.{least}"
        )
        if found.requests:
            parts.append(f"Label these {len(found.requests)} queries next: they are listed below.")
    if found.missing:
        names = {name for _, name in found.missing}
        parts.append(
            f"{len(names):,} documents that were judged relevant are not in the index, such as "
            f"`{found.missing[0][1]}`."
        )
    return " ".join([*parts, *(f"Note: {one}." for one in found.notes)])


def _points(value: float) -> str:
    return f"{100 * value:+.1f}"


def _steps(found: Review) -> ReportSection | None:
    steps = found.attribution.steps
    if not steps:
        return None
    header = ("no.", "step", "what", "gain", "from", "to", "mends", "breaks", "ms a query",
              "MB", "hours", "money")  # fmt: skip
    rows = [_row(number, one, found) for number, one in enumerate(steps, 1)]
    text = (
        "Gains are points of nDCG@10, halfway between what a step brings alone and what it brings "
        "after the others. Mends is the share of failed queries that have an answer afterwards."
    )
    return ReportSection("Next steps", text, tables=[ReportTable(header, rows)])


def _row(number: int, one: ChosenStep, found: Review) -> tuple[Any, ...]:
    cost = found.costs[one.alone.arm.name]
    share = one.alone.mends / max(1, found.attribution.failed)
    return (
        number,
        one.alone.arm.name,
        one.alone.arm.stage,
        100 * one.expected,
        100 * one.low,
        100 * one.high,
        f"{share:.0%}",
        one.alone.breaks,
        cost.query_ms,
        None if cost.vector_bytes is None else cost.vector_bytes / 1e6,
        cost.hours,
        cost.money,
    )


def _details(found: Review, redactor: Redactor) -> ReportSection | None:
    parts = []
    for one in found.attribution.steps:
        arm = one.alone.arm
        text = f"{arm.name}: `{arm.command}`."
        if one.interacts:
            text += (
                f" It brings {_points(one.alone.gain)} alone and {_points(one.last.gain)} after "
                "the other steps: they interact."
            )
        if one.same:
            names = ", ".join(x.arm.name for x in one.same[:SHOWN])
            text += f" Instead of it, not beside it, these help too: {names}."
        if broken := found.broken.get(arm.name):
            listed = "; ".join(f"`{redactor.redact(x)}`" for x in broken[:SHOWN])
            text += f" Queries that lose their answer ({len(broken)}): {listed}."
        text += " It can be undone." if arm.reversible else " It cannot be undone."
        parts.append(text)
    return ReportSection("How, and what may break", "\n\n".join(parts)) if parts else None


def _arms(found: Review) -> ReportSection:
    arms = found.attribution.arms
    rows: list[tuple[Any, ...]] = [
        (x.arm.name, x.arm.stage, 100 * x.gain, 100 * x.low, 100 * x.high, x.p,
         None if x.detectable is None else 100 * x.detectable,
         "stopped early: hopeless" if x.early else "")
        for x in arms
    ]  # fmt: skip
    rows += [
        (arm.name, arm.stage, None, None, None, None, None, f"not tried: {reason}")
        for arm, reason in found.attribution.untried
    ]
    header = ("change", "what", "gain", "from", "to", "p", "shown from", "")
    plot = interval_plot(
        [Interval(x.arm.name, 100 * x.gain, 100 * x.low, 100 * x.high) for x in arms[:20]],
        "points of nDCG@10",
    )
    text = "One part of the pipeline exchanged at a time; p is corrected for their number."
    return ReportSection("All changes that were tried", text, plot, [ReportTable(header, rows)])


def _labels(found: Review, redactor: Redactor) -> ReportSection | None:
    if not found.requests:
        return None
    rows = [
        (redactor.redact(one.text), one.count, one.difference, ", ".join(one.documents[:SHOWN]))
        for one in found.requests
    ]
    text = (
        "Their label would move the decision most: the changes answer them differently. Write "
        '`{"query": ..., "relevant": [...]}` on a line for each, and give the file as --judgments.'
    )
    table = ReportTable(("query", "asked", "difference", "documents to judge"), rows, wrapped=True)
    return ReportSection("Queries to label next", text, tables=[table])


def _missing(found: Review, redactor: Redactor) -> ReportSection | None:
    if not found.missing:
        return None
    rows = [(redactor.redact(query), name) for query, name in found.missing]
    table = ReportTable(("query", "document"), rows, wrapped=True)
    return ReportSection("Judged documents that are not there", tables=[table], folded=True)


def _trust(found: Review) -> ReportSection | None:
    if not found.reliabilities:
        return None
    rows = [
        (
            one.origin,
            one.queries,
            "unknown" if one.precision is None else f"{one.precision:.0%}",
            "unknown" if one.correlation is None else f"{one.correlation:.2f}",
        )
        for one in found.reliabilities
    ]
    text = "Measured on the queries that have labels; unknown where fewer than ten have."
    header = ("pseudo-judgments", "queries", "right", "Kendall's tau of the changes")
    return ReportSection("How far they can be trusted", text, tables=[ReportTable(header, rows)])


def review_data(found: Review, redactor: Redactor) -> dict[str, Any]:
    """Return all of a review as JSON."""
    attribution = found.attribution
    return {
        "basis": found.basis,
        "quality": attribution.quality,
        "failed": attribution.failed,
        "steps": [_step_data(one, found, redactor) for one in attribution.steps],
        "arms": [_arm_data(one) for one in attribution.arms],
        "untried": [{"name": arm.name, "reason": why} for arm, why in attribution.untried],
        "label": [{**asdict(x), "text": redactor.redact(x.text)} for x in found.requests],
        "missing": [[redactor.redact(query), name] for query, name in found.missing],
        "reliability": [asdict(one) for one in found.reliabilities],
        "notes": list(found.notes),
    }


def _step_data(one: ChosenStep, found: Review, redactor: Redactor) -> dict[str, Any]:
    cost: StepCost = found.costs[one.alone.arm.name]
    return {
        **_arm_data(one.alone),
        "expected": one.expected,
        "interval": [one.low, one.high],
        "after_the_others": one.last.gain,
        "interacts": one.interacts,
        "instead": [x.arm.name for x in one.same],
        "command": one.alone.arm.command,
        "reversible": one.alone.arm.reversible,
        "mended_share": one.alone.mends / max(1, found.attribution.failed),
        "broken": [redactor.redact(x) for x in found.broken.get(one.alone.arm.name, ())],
        "cost": asdict(cost),
    }


def _arm_data(one: Judged) -> dict[str, Any]:
    names = ("gain", "low", "high", "p", "detectable", "mends", "breaks", "early")
    arm = {"name": one.arm.name, "factor": one.arm.factor, "stage": one.arm.stage}
    return {**arm, **{name: getattr(one, name) for name in names}}
