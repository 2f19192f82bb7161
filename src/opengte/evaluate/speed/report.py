"""What was measured, as a report with a picture."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from opengte.evaluate.report import Cell, EvaluationReport, ReportSection, ReportTable
from opengte.evaluate.speed import machine, prices
from opengte.evaluate.speed.measure import SpeedResult
from opengte.evaluate.speed.texts import MIXED
from opengte.svg import bar_chart

if TYPE_CHECKING:
    from opengte.evaluate.speed.server import ServerResult

DOLLARS = "dollars per million tokens"


def speed_rows(results: Sequence[SpeedResult], price: float | None) -> list[dict[str, Any]]:
    """Return one row for each setting, as `--json` prints it."""
    rows = []
    for result in results:
        row = asdict(result)
        setting = row.pop("setting")
        row = {"model": row.pop("model"), **setting, **row}
        mixed = result.rates.get(MIXED)
        row["cost_per_million"] = (
            prices.cost_per_million(price, mixed) if price is not None and mixed else None
        )
        rows.append(row)
    return rows


def speed_table(rows: Sequence[dict[str, Any]]) -> ReportTable:
    """Return the table of what was measured."""
    lengths = list(dict.fromkeys(name for row in rows for name in row["rates"]))
    header = ["model", "precision", "threads", *(f"{n} tok/s" for n in lengths), "query ms"]
    header += ["start s", "MB", "cosine min", "mean", "of product", "cost/M tokens"]
    table: list[list[Cell]] = []
    for row in rows:
        cells: list[Cell] = [row["model"], row["precision"], row["threads"]]
        cells += [_whole(row["rates"].get(name)) for name in lengths]
        cells += [_fixed(row["query"], 2), _fixed(row["start"], 2)]
        cells += [_whole(row["memory"] and row["memory"] / 1e6)]
        cells += [_fixed(row["lowest"], 4), _fixed(row["mean"], 4)]
        cells += [None if row["share"] is None else f"{row['share']:.0%}"]
        cells += [_fixed(row["cost_per_million"], 5)]
        table.append(cells)
    return ReportTable(header, table)


def price_table() -> ReportTable:
    """Return what services ask for a million tokens."""
    rows = [(one.model, one.service, f"{one.dollars:g}") for one in prices.LIST_PRICES]
    return ReportTable(("model", "service", DOLLARS), rows)


def server_table(result: "ServerResult") -> ReportTable:
    """Return what a server did under load."""
    refused = {name: count for name, count in result.statuses.items() if name != "200"}
    rows: list[tuple[str, Cell]] = [
        ("one short query, idle, p50", f"{result.idle:.2f} ms"),
        ("at its limit", f"{result.texts:.0f} texts/s, {result.tokens:,.0f} tokens/s"),
        ("at half of that, p50", _fixed(result.half_p50, 1) and f"{result.half_p50:.1f} ms"),
        ("at half of that, p99", _fixed(result.half_p99, 1) and f"{result.half_p99:.1f} ms"),
        ("requests without vectors", ", ".join(f"{n}: {c}" for n, c in refused.items()) or "none"),
        ("this client, of one processor", f"{result.client:.0%}"),
    ]
    return ReportTable((result.model, result.url), rows)


def speed_report(
    rows: Sequence[dict[str, Any]],
    server: "ServerResult | None",
    price: float | None,
    load: float | None = None,
) -> EvaluationReport:
    """Return the whole report: tables, and a picture of the rates.

    `load` is how many processes ran on this machine before: it makes all figures worse.
    """
    sections = []
    if rows:
        bars = [
            (
                f"{row['model'][-14:]} {row['precision']} x{row['threads']}",
                row["rates"][MIXED],
                f"{row['rates'][MIXED]:,.0f}"
                + ("" if row["lowest"] is None else f", cosine {row['lowest']:.3f}"),
            )
            for row in rows
            if row["rates"]
        ]
        plot = bar_chart(bars, "tokens a second, mixed lengths")
        sections.append(ReportSection("On this machine", LEGEND, plot, [speed_table(rows)]))
    if server:
        sections.append(ReportSection("Under load", tables=[server_table(server)]))
    title = f"List prices, {prices.SEEN}"
    sections.append(ReportSection(title, tables=[price_table()], folded=price is None))
    problems = [f"{r['model']} in {r['precision']}: {r['problem']}" for r in rows if r["problem"]]
    facts: dict[str, Cell] = {"processor": machine.processor(), "instruction set": machine.level()}
    facts["load of the machine before"] = load and f"{load:.1f} processes"
    facts["price of the machine by the hour"] = price
    facts["not measured"] = "; ".join(problems) or None
    data = {"settings": list(rows), "server": server and asdict(server)}
    return EvaluationReport("Speed and cost", verdict(rows, price), sections, facts, data)


LEGEND = (
    "Rates are from strings to vectors, medians of three rounds. Query: ten tokens, alone, median. "
    "Start: from the start of a process to its first vector. MB: the peak of that process. Cosine: "
    "of a text's vector with its vector in fp32. Of product: operations a second to what the "
    "engine's matrix product alone reaches on this machine."
)


def verdict(rows: Sequence[dict[str, Any]], price: float | None) -> str:
    """Return the result in a sentence or two."""
    measured = [row for row in rows if row["rates"]]
    if not measured:
        return "Nothing was measured on this machine."
    best = max(measured, key=lambda row: row["rates"][MIXED])
    threads = "1 thread" if best["threads"] == 1 else f"{best['threads']} threads"
    said = (
        f"{best['model']} in {best['precision']} on {threads}: "
        f"{best['rates'][MIXED]:,.0f} tokens a second."
    )
    if price is None:
        return f"{said} Give the price of the machine, such as `--price 0.09/h`, for costs."
    cost = best["cost_per_million"]
    cheapest = min(prices.LIST_PRICES, key=lambda one: one.dollars)
    share = cost / cheapest.dollars
    compared = f"cheaper from {share:.0%} of its time in use" if share <= 1 else "never cheaper"
    return (
        f"{said} A million tokens cost {cost:.5f} if it is busy all the time; the cheapest list "
        f"price is {cheapest.dollars:g} dollars ({cheapest.service}, {cheapest.model}), and this "
        f"machine is {compared}."
    )


def _whole(value: float | None) -> str | None:
    return None if value is None else f"{value:,.0f}"


def _fixed(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
