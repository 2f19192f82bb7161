"""Figures -> text: tables, and the figures to reach with whether they were."""

from collections.abc import Iterator
from typing import Any

from cpu_peers import catalog
from cpu_peers.catalog import ENGINES

LABELS = {engine.id: engine.label for engine in ENGINES}
SAME = 0.9999  # lowest cosine of an engine that computes the same in fp32
PEERS = {engine.id for engine in ENGINES if engine.peer}


def throughput(results: dict[str, Any], shape_id: str) -> str:
    """Return the table of one shape and its targets."""
    shape = results["shapes"][shape_id]
    mean = shape["tokens"] / shape["texts"]
    lines = [
        "",
        f"## {shape['title']}",
        f"{shape['texts']} texts, {shape['tokens']:,} tokens (mean {mean:.0f}), "
        f"{shape['operations'] / shape['tokens'] / 1e6:.1f} MOP a token; {results['rounds']} "
        f"rounds in turn, {results['threads']} threads, medians; tokenisation inside",
        f"{'engine':34} {'tokens/s':>9} {'slowest..fastest':>17} {'query p50':>10} "
        f"{'cosine lowest':>14} {'mean':>9} {'peak':>8}",
    ]
    lines += [_row(name, row) for name, row in shape["engines"].items()]
    return "\n".join([*lines, *_judged(_throughput_targets(results, shape_id), results["quick"])])


def _row(name: str, row: dict[str, Any]) -> str:
    if "not_run" in row:
        return f"{LABELS[name]:34} not run: {row['not_run']}"
    spread = f"{row['slowest']:,.0f}..{row['fastest']:,.0f}"
    lowest, mean = row.get("cosine_lowest"), row.get("cosine_mean")
    # exact arithmetic that gives other vectors is another computation: its speed says nothing
    odd = name.endswith("fp32") and lowest is not None and lowest < SAME
    return (
        f"{LABELS[name]:34} {row['tokens_per_second']:9,.0f} {spread:>17} "
        f"{row['query_p50_ms']:7.2f} ms {_cosine(lowest):>14} {_cosine(mean):>9} "
        f"{_mb(row.get('peak_mb')):>8}{'  OTHER VECTORS: not comparable' if odd else ''}"
    )


def _cosine(value: float | None) -> str:
    return "-" if value is None else f"{value:.7f}"


def _mb(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f} MB"


Target = tuple[str, str, bool | None]  # what, the figures (empty: not measured), reached, if asked


def _judged(targets: Iterator[Target], quick: bool) -> list[str]:
    words = {True: "reached", False: "NOT REACHED", None: ""}
    note = " (a quick run: too short to judge by)" if quick else ""
    rows = [
        f"  {what:62} {figures:30} {words[reached]}" if figures else f"  {what:62} not measured"
        for what, figures, reached in targets
    ]
    return [f"Figures to reach{note}:", *rows] if rows else []


def _throughput_targets(results: dict[str, Any], shape_id: str) -> Iterator[Target]:
    engines = results["shapes"][shape_id]["engines"]
    rates = {name: row.get("tokens_per_second") for name, row in engines.items()}
    for ratio in catalog.RATIOS:
        what = f"{ratio.ours.split('-')[1]} >= {ratio.factor} x {ratio.note}"
        peers = [rates[p] for p in ratio.peers if rates.get(p)]
        yield _at_least(what, rates.get(ratio.ours), max(peers, default=None), ratio.factor)
    yield from _shares(results, shape_id, rates)
    yield _query(engines)
    if shape_id == "minilm":  # random weights say little of what rounding does to real ones
        yield from _cosines(engines)


def _at_least(what: str, ours: float | None, other: float | None, factor: float) -> Target:
    if not ours or not other:
        return what, "", None
    return what, f"{ours / other:.2f} x", ours >= factor * other


def _shares(results: dict[str, Any], shape_id: str, rates: dict[str, Any]) -> Iterator[Target]:
    shape = results["shapes"][shape_id]
    for precision in ("int8", "bf16", "fp32"):
        ours = rates.get(f"native-{precision}")
        peak = best_rate(results["gemm"], precision)
        bound = precision == "int8" and shape_id in catalog.BASE_SHAPES
        limit = f" >= {catalog.GEMM_SHARE:.0%}" if bound else " (no target)"
        what = f"{precision} share of the machine's product rate{limit}"
        if not ours or not peak:
            yield what, "", None
            continue
        reached = ours * shape["operations"] / shape["tokens"]
        share = reached / peak
        figures = f"{share:.0%} of {peak / 1e9:,.0f} GOP/s"
        yield what, figures, share >= catalog.GEMM_SHARE if bound else None


def best_rate(gemm: dict[str, Any], precision: str) -> float | None:
    """Return the fastest matrix product that was measured, whoever computed it."""
    return max((rates.get(precision, 0.0) for rates in gemm.values()), default=0.0) or None


def _query(engines: dict[str, Any]) -> Target:
    what = f"single query of 10 tokens: p50 <= {catalog.QUERY} x the best peer's"
    ours = engines.get("native-int8", {}).get("query_p50_ms")
    peers = [row["query_p50_ms"] for n, row in engines.items() if n in PEERS and "query" in row]
    peers = [p for p in peers if p]
    if not ours or not peers:
        return what, "", None
    best = min(peers)
    return what, f"{ours:.2f} / {best:.2f} ms = {ours / best:.2f} x", ours <= catalog.QUERY * best


def _cosines(engines: dict[str, Any]) -> Iterator[Target]:
    for name, (lowest, mean) in catalog.FIDELITY.items():
        what = f"{name.split('-')[1]} cosine: lowest >= {lowest}, mean >= {mean}"
        row = engines.get(name, {})
        if "cosine_lowest" not in row:
            yield what, "", None
            continue
        found = row["cosine_lowest"], row["cosine_mean"]
        yield what, f"{found[0]:.7f}, {found[1]:.7f}", found[0] >= lowest and found[1] >= mean


def rest(results: dict[str, Any]) -> str:
    """Return everything but the throughput tables."""
    lines = [*_gemm(results["gemm"])]
    if "start" in results:
        lines += ["", "## Process start to first vector (all-MiniLM-L6-v2, cache prepared)"]
        lines += [_start_row(name, row) for name, row in results["start"].items()]
        lines += _judged(_start_targets(results["start"]), results["quick"])
    for shape_id, found in results["long"].items():
        lines += ["", f"## One document of {found['tokens']:,} tokens ({found['title']})"]
        lines += [_long_row(name, row) for name, row in found["engines"].items()]
        lines += _judged(_long_targets(shape_id, found), results["quick"])
    if "big" in results:
        lines += _big(results["big"], results["quick"])
    if "quality" in results:
        lines += _quality(results["quality"], results["quick"])
    for name, reason in results["missing"].items():
        lines += ["", f"Not installed: {name}: {reason}"]
    return "\n".join(lines)


def _gemm(gemm: dict[str, Any]) -> Iterator[str]:
    yield "\n## Matrix products on all threads, GOP/s"
    names = {"native": "OpenGTE's own kernels", "torch": "PyTorch (oneDNN, MKL)"}
    for who, rates in gemm.items():
        if "error" in rates:
            yield f"{names[who]:34} not measured: {rates['error']}"
        else:
            figures = ", ".join(f"{p} {rate / 1e9:,.0f}" for p, rate in rates.items())
            yield f"{names[who]:34} {figures}"


def _start_row(name: str, row: dict[str, Any]) -> str:
    if "not_run" in row:
        return f"{LABELS[name]:34} not run: {row['not_run']}"
    return f"{LABELS[name]:34} {row['median']:6.2f} s {_mb(row['peak_mb']):>9} resident at most"


def _start_targets(start: dict[str, Any]) -> Iterator[Target]:
    row = start.get("native-int8", {})
    seconds, memory = row.get("median"), row.get("peak_mb")
    what = f"process start to first vector <= {catalog.START_SECONDS} s"
    reached = None if seconds is None else seconds <= catalog.START_SECONDS
    yield what, "" if seconds is None else f"{seconds:.2f} s", reached
    what = f"resident <= {catalog.START_MB} MB"
    yield (
        what,
        _mb(memory) if memory else "",
        None if memory is None else memory <= catalog.START_MB,
    )


def _long_row(name: str, row: dict[str, Any]) -> str:
    if "not_run" in row:
        return f"{LABELS[name]:34} not run: {row['not_run']}"
    return (
        f"{LABELS[name]:34} {row['seconds']:8.2f} s   peak {_mb(row['peak_mb'])}, "
        f"weights {_mb(row['weights_mb'])}"
    )


def _long_targets(shape_id: str, found: dict[str, Any]) -> Iterator[Target]:
    engines = found["engines"]
    speeds = {n: 1 / row["seconds"] for n, row in engines.items() if "seconds" in row}
    if shape_id == "new-base":
        best = max((speed for n, speed in speeds.items() if n in PEERS), default=None)
        what = f"int8 >= {catalog.LONG_RATIO} x the best peer"
        yield _at_least(what, speeds.get("native-int8"), best, catalog.LONG_RATIO)
    extra = catalog.LONG_EXTRA_MB[shape_id]
    for name in ("native-int8", "native-bf16", "native-fp32"):
        row = engines.get(name, {})
        what = f"{name.split('-')[1]} peak memory <= weights + {extra} MB"
        if not row.get("peak_mb"):
            yield what, "", None
            continue
        above = row["peak_mb"] - row["weights_mb"]
        yield what, f"weights + {above:,.0f} MB", above <= extra


def _big(found: dict[str, Any], quick: bool) -> list[str]:
    if "not_run" in found:
        return ["", f"7B not run: {found['not_run']}"]
    lines = ["", f"## Process start to first vector ({found['title']}, int8)"]
    for what in ("prepared", "loaded"):
        row = found[what]
        lines.append(f"{what:34} {row['seconds']:8.2f} s   peak {_mb(row['peak_mb'])}")
    return lines + _judged(_big_targets(found), quick)


def _big_targets(found: dict[str, Any]) -> Iterator[Target]:
    seconds = found["loaded"]["seconds"]
    what = f"loaded, and a vector, <= {catalog.BIG_SECONDS} s"
    yield what, f"{seconds:.2f} s", seconds <= catalog.BIG_SECONDS
    for name, limit in (("prepared", catalog.BIG_PREPARE_MB), ("loaded", catalog.BIG_MB)):
        peak = found[name]["peak_mb"]
        what = f"{name}: resident <= {limit:,.0f} MB"
        yield what, _mb(peak) if peak else "", peak <= limit if peak else None


def _quality(quality: dict[str, Any], quick: bool) -> list[str]:
    lines = ["", "## all-MiniLM-L6-v2 on MTEB data: Spearman x 100, nDCG@10 x 100"]
    if quality["limited"]:
        lines.append("(300 pairs a task and part of the corpus only)")
    tables = {name: row for name, row in quality.items() if isinstance(row, dict)}
    for name, row in tables.items():
        scores = row.get("error") or "  ".join(f"{task} {score:.2f}" for task, score in row.items())
        lines.append(f"{LABELS[name]:34} {scores}")
    exact, narrow = tables.get("native-fp32", {}), tables.get("native-int8", {})
    changes = {task: narrow[task] - exact[task] for task in exact if task in narrow}
    return lines + _judged(_quality_targets(changes), quick)


def _quality_targets(changes: dict[str, Any]) -> Iterator[Target]:
    pairs = {task: change for task, change in changes.items() if task != "SciFact"}
    if "error" in changes:
        pairs = {}
    mean = sum(pairs.values()) / len(pairs) if pairs else None
    worst = min(pairs.values(), default=None)
    bounds = (
        (f"int8 similarity tasks, mean change >= {catalog.STS_MEAN}", mean, catalog.STS_MEAN),
        (f"int8 similarity tasks, worst change >= {catalog.STS_EACH}", worst, catalog.STS_EACH),
        (f"int8 SciFact nDCG@10, change >= {catalog.NDCG}", changes.get("SciFact"), catalog.NDCG),
    )
    for what, found, bound in bounds:
        reached = None if found is None else round(found, 2) >= bound
        yield what, "" if found is None else f"{found:+.2f}", reached
