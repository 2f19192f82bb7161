"""A page of plots of a run, without scripts and without anything from elsewhere."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from opengte.train.journal import EVALUATIONS, LOG, STEPS, read_table

PAGE = "report.html"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 480, 250, 56, 36, 12, 14
POINTS = 400  # a longer curve is averaged down to so many

Curve = list[tuple[float, float]]

_LINES = (
    ("gradient_norm", "Norm of the gradient"),
    ("learning_rate", "Learning rate"),
    ("tokens_per_second", "Tokens a second"),
    ("pairs_per_second", "Pairs a second"),
    ("mfu", "Model FLOP utilisation, %"),
    ("loader_wait", "Waiting for data, %"),
    ("memory", "Peak memory, GiB"),
)

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2rem auto;padding:0 1rem;
color:#1d2327;background:#fff}
h1{font-size:1.4rem}h2{font-size:1rem;margin:0 0 .3rem}
section{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1.5rem}
figure{margin:0}svg{width:100%;height:auto}text{font-size:11px;fill:#5b6570}
.rule{stroke:#e3e6ea}.curve{fill:none;stroke:#1f6fb2;stroke-width:1.6}
.faint{fill:none;stroke:#1f6fb2;stroke-width:.7;opacity:.35}.dot{fill:#1f6fb2}
@media(prefers-color-scheme:dark){body{color:#dfe3e8;background:#15181c}text{fill:#9aa4af}
.rule{stroke:#2b3138}.curve,.faint{stroke:#6db3ef}.dot{fill:#6db3ef}}
"""


def write(folder: Path) -> None:
    """Write the page from the tables that the run left in its folder."""
    figures = []
    steps = read_table(folder / STEPS)
    for source in sorted({row["source"] for row in steps}):
        curve = _curve([r for r in steps if r["source"] == source], "loss")
        figures.append(_figure(f"Loss, {source}", curve, smooth=True))
    evaluations = read_table(folder / EVALUATIONS)
    for metric in dict.fromkeys(row["metric"] for row in evaluations):
        curve = _curve([r for r in evaluations if r["metric"] == metric], "value")
        figures.append(_figure(metric, curve, dots=True))
    lines = read_table(folder / LOG)
    figures += [_figure(title, _curve(lines, name)) for name, title in _LINES]
    name = escape(folder.resolve().name)
    (folder / PAGE).write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style><h1>{name}: {len(steps)} steps</h1>"
        f"<section>{''.join(figures)}</section></html>\n",
        encoding="utf-8",
    )


def _curve(rows: Sequence[dict[str, str]], column: str) -> Curve:
    points = [(float(row["step"]), float(row[column])) for row in rows]
    return [(x, y) for x, y in points if math.isfinite(y)]


def _figure(title: str, curve: Curve, *, smooth: bool = False, dots: bool = False) -> str:
    if not curve:
        return ""
    thin = _thinned(curve)
    x = _scale([p[0] for p in thin], LEFT, WIDTH - RIGHT)
    y = _scale([p[1] for p in thin], HEIGHT - BOTTOM, TOP)
    parts = []
    for tick in _ticks([p[1] for p in thin]):
        parts.append(
            f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" '
            f'y2="{y(tick):.1f}"/>' + _text(LEFT - 6, y(tick) + 4, f"{tick:g}", "end")
        )
    for tick in _ticks([p[0] for p in thin]):
        parts.append(_text(x(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", "middle"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 4, "step", "end"))
    drawn = [(x(a), y(b)) for a, b in thin]
    if smooth and len(thin) > 20:
        parts.append(_line(drawn, "faint"))
        drawn = [(x(a), y(b)) for a, b in _smoothed(thin)]
    parts.append(_line(drawn, "curve"))
    if dots or len(drawn) == 1:
        parts += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in drawn]
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'
    last = f"{curve[-1][1]:.4g}"
    return f"<figure><h2>{escape(title)}: {last}</h2>{svg}</figure>"


def _thinned(curve: Curve) -> Curve:
    size = -(-len(curve) // POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(g[-1][0], sum(p[1] for p in g) / len(g)) for g in groups]


def _smoothed(curve: Curve) -> Curve:
    mean, result = curve[0][1], []
    for x, y in curve:
        mean += 0.1 * (y - mean)
        result.append((x, mean))
    return result


def _line(points: Curve, kind: str) -> str:
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


class _scale:
    """Values of a range to places on the page."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self._low, high = min(values), max(values)
        self._range = (high - self._low) or 1.0
        self._start, self._end = start, end

    def __call__(self, value: float) -> float:
        return self._start + (self._end - self._start) * (value - self._low) / self._range


def _ticks(values: Sequence[float], count: int = 4) -> list[float]:
    low, high = min(values), max(values)
    raw = (high - low) / count or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(place * step, 12) for place in range(first, last + 1)]
