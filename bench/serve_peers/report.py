"""The figures as tables: what was to be reached, and what every server did."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from serve_peers import catalog
from serve_peers.catalog import SERVERS

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A figure to reach: what was found, as a text and as a verdict (None: not measured)."""

    what: str
    found: str
    target: str
    reached: bool | None


def table(results: Figures) -> str:
    """Return the whole report."""
    parts = [
        f"\nmachine: {results['machine']}, {results['processors']} processors, "
        f"{results['threads']} threads for each server"
        + (", quick: no judgement" if results["quick"] else ""),
        _aligned(
            [
                ("figure", "found", "to reach", ""),
                *((row.what, row.found, row.target, _mark(row.reached)) for row in rows(results)),
            ]
        ),
        _aligned([("server", *(name for name, _ in COLUMNS)), *_server_rows(results)]),
    ]
    failed = [
        f"{server.label}: {found['error']}"
        for server in SERVERS
        if "error" in (found := results["servers"].get(server.id, {}))
    ]
    return "\n\n".join([*parts, *failed])


def rows(results: Figures) -> Iterator[Row]:
    """Yield every figure to reach that was measured."""
    ours = results["servers"].get("opengte", {})
    yield from _throughput(results, ours)
    yield from _latency(results, ours)
    yield from _overhead(results, ours)
    yield from _soak(ours)
    if starts := ours.get("start"):
        middle = sorted(starts)[len(starts) // 2]
        limit = catalog.START_SECONDS
        yield Row("start to ready", f"{middle:.2f} s", f"<= {limit:g} s", middle <= limit)


def _throughput(results: Figures, ours: Figures) -> Iterator[Row]:
    if "saturation" not in ours:
        return
    full = ours["saturation"]["texts_per_second"]
    yield Row("saturation, one text a request", f"{full:.0f} texts/s", "", None)
    best = _best(results, lambda f: f["saturation"]["texts_per_second"], most=True)
    if best:
        ratio = full / best[1]
        found = f"{ratio:.1f} x ({best[0]}: {best[1]:.0f} texts/s)"
        limit = catalog.THROUGHPUT
        yield Row("  to the best peer", found, f">= {limit:g} x", ratio >= limit)
    alone = results["offline"]["texts_per_second"]
    share = full / alone
    found = f"{share:.0%} of {alone:.0f} texts/s"
    yield Row(
        "  to the engine offline", found, f">= {catalog.OFFLINE:.0%}", share >= catalog.OFFLINE
    )
    many = ours["saturation"]["requests_of_32"]
    yield Row("  requests of 32 texts", f"{many:.0f} texts/s, {many / alone:.0%}", "", None)


def _latency(results: Figures, ours: Figures) -> Iterator[Row]:
    if "idle" in ours:
        p50 = ours["idle"]["p50"]
        limit = catalog.IDLE_MS
        yield Row("one short query, idle: p50", f"{p50:.2f} ms", f"<= {limit:g} ms", p50 <= limit)
    if "half" in ours:
        for point in ("p50", "p99"):
            yield _half(results, ours, point)
    if "half" in ours and "bulk" in ours:
        alone, beside = (ours[part]["latency_ms"]["short"]["p99"] for part in ("half", "bulk"))
        rise, limit = beside / alone, catalog.BULK_RISE
        peers = _best(results, _rise)
        found = f"x {rise:.2f}, {beside:.1f} ms" + (
            f" (best peer x {peers[1]:.1f})" if peers else ""
        )
        yield Row("  p99 beside a bulk client", found, f"<= x {limit:g}", rise <= limit)


def _half(results: Figures, ours: Figures, point: str) -> Row:
    mine = ours["half"]["latency_ms"]["short"][point]
    best = _best(results, lambda f: f["half"]["latency_ms"]["short"][point])
    what = f"short query at half load: {point}"
    if not best:
        return Row(what, f"{mine:.1f} ms", "", None)
    share = mine / best[1]
    found = f"{mine:.1f} ms, {share:.2f} x {best[1]:.1f} ms ({best[0]})"
    return Row(what, found, f"<= {catalog.LATENCY:g} x", share <= catalog.LATENCY)


def _rise(figures: Figures) -> float:
    alone, beside = (figures[part]["latency_ms"]["short"]["p99"] for part in ("half", "bulk"))
    return float(beside / alone)


def _overhead(results: Figures, ours: Figures) -> Iterator[Row]:
    if "overhead" not in ours:
        return
    one = ours["overhead"]["one"]["rest_ms"].get("p50")
    if one is None:
        yield Row("overhead", "the server tells no computing time", "", None)
        return
    limit = catalog.OVERHEAD_ONE_MS
    computing = ours["overhead"]["one"]["computing_ms"]["p50"]
    found = f"{one:.2f} ms beside {computing:.2f} ms"
    yield Row("all but the forward pass, 1 text: p50", found, f"<= {limit:g} ms", one <= limit)
    forward = results["offline"]["many"]["forward_ms"]
    seen = ours["overhead"]["many"].get("p50")
    if seen is None:
        return
    share = seen / forward - 1
    limit = catalog.OVERHEAD_MANY
    found = f"{share:+.1%} of {forward:.0f} ms offline"
    yield Row("  256 texts", found, f"<= {limit:.0%}", share <= limit)


def _soak(ours: Figures) -> Iterator[Row]:
    if "soak" not in ours:
        return
    soak = ours["soak"]
    title = f"{soak['seconds']:.0f} s at twice saturation"
    broken = {k: n for k, n in soak["statuses"].items() if k not in ("200", "429", "503")}
    lost = soak["lost_processes"]
    found = f"{lost} processes lost, other than 200/429/503: {broken or 'none'}"
    yield Row(f"{title}: crashes", found, "none", not lost and not broken)
    if soak["memory"]:
        growth, limit = soak["memory"]["growth"], catalog.MEMORY
        found = f"{growth:+.1%}, {soak['memory']['end']:.0f} MB"
        yield Row("  memory", found, f"within {limit:.0%}", abs(growth) <= limit)
    refused, told = soak["refused"], soak["refused_with_retry_after"]
    yield Row("  refused, told when to return", f"{told} of {refused}", "all", told == refused)
    share = soak["texts_per_second"] / ours["saturation"]["texts_per_second"]
    answered = soak["latency_ms"]
    long = answered["long"]["count"] / max(1, answered["all"]["count"])
    found = f"{soak['texts_per_second']:.0f} texts/s, {share:.0%} ({long:.0%} of them long)"
    yield Row("  goodput", found, f">= {catalog.GOODPUT:.0%}", share >= catalog.GOODPUT)


def _best(
    results: Figures, read: Callable[[Figures], float], *, most: bool = False
) -> tuple[str, float] | None:
    """Return the peer with the lowest (or most) of a figure; None where no peer has it."""
    found = []
    for server in SERVERS:
        if not server.ours:
            try:
                found.append((server.label, read(results["servers"][server.id])))
            except KeyError:
                continue
    if not found:
        return None
    return (max if most else min)(found, key=lambda pair: pair[1])


COLUMNS: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("texts/s", lambda f: f"{f['saturation']['texts_per_second']:.0f}"),
    ("16 clients", lambda f: f"{f['saturation']['clients_16']:.0f}"),
    ("by 32", lambda f: f"{f['saturation']['requests_of_32']:.0f}"),
    ("idle p50 ms", lambda f: f"{f['idle']['p50']:.2f}"),
    ("half p50 ms", lambda f: f"{f['half']['latency_ms']['short']['p50']:.1f}"),
    ("half p99 ms", lambda f: f"{f['half']['latency_ms']['short']['p99']:.1f}"),
    ("+bulk p99 ms", lambda f: f"{f['bulk']['latency_ms']['short']['p99']:.1f}"),
    ("bulk texts/s", lambda f: f"{f['bulk']['bulk_texts_per_second']:.0f}"),
    ("start s", lambda f: f"{f['ready_seconds']:.1f}"),
    ("cosine", lambda f: f"{f['agreement']:.4f}"),
)


def _server_rows(results: Figures) -> Iterator[tuple[str, ...]]:
    for server in SERVERS:
        if found := results["servers"].get(server.id):
            yield (server.label, *(_cell(read, found) for _, read in COLUMNS))


def _cell(read: Callable[[Figures], str], figures: Figures) -> str:
    try:
        return read(figures)
    except KeyError:
        return "-"


def _mark(reached: bool | None) -> str:
    return "" if reached is None else "yes" if reached else "NO"


def _aligned(lines: list[tuple[str, ...]]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = tuple("-" * width for width in widths)
    shown = [lines[0], rule, *lines[1:]]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in shown
    )
