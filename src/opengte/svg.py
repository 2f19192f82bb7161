"""Plots as SVG text, for pages without scripts; colours come from the page's style sheet."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 480
POINTS = 400  # a longer curve is averaged down to this many points

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class ScatterPoint:
    """A labelled point of a scatter plot; `best` marks the points on the Pareto front."""

    x: float
    y: float
    label: str
    about: str = ""
    best: bool = False


@dataclass(frozen=True)
class Interval:
    """A difference with its confidence interval; significant if the interval excludes zero."""

    label: str
    value: float
    low: float
    high: float


def interval_plot(rows: Sequence[Interval], unit: str, *, noise_only: bool = False) -> str:
    """Draw one interval per row around zero.

    Strong colours mark intervals that exclude zero; with noise_only, values outside their interval.
    """
    if not rows:
        return ""
    left, right, step, top = 200, 16, 24, 8
    reach = 1.1 * max(abs(edge) for row in rows for edge in (row.low, row.high, row.value)) or 1.0
    scale = _scale(-reach, reach, left, WIDTH - right)
    height = top + step * len(rows) + 36
    parts = [f'<line class="axis" x1="{scale(0):.1f}" x2="{scale(0):.1f}" y1="{top}" ']
    parts[0] += f'y2="{height - 34}"/>'
    for place, row in enumerate(rows):
        y = top + step * (place + 0.5)
        outside = not row.low <= row.value <= row.high if noise_only else row.low * row.high > 0
        kind = "strong" if outside else "weak"
        parts.append(_text(left - 10, y + 4, _fitted(row.label), "end"))
        parts.append(
            f'<line class="bar {kind}" x1="{scale(row.low):.1f}" x2="{scale(row.high):.1f}" '
            f'y1="{y}" y2="{y}"/>'
            f'<circle class="dot {kind}" cx="{scale(row.value):.1f}" cy="{y}" r="4"/>'
        )
    parts += _x_axis(_ticks(-reach, reach, 4), scale, height - 32, unit)
    return _svg(height, parts)


def bar_chart(rows: Sequence[tuple[str, float, str]], unit: str) -> str:
    """Draw one bar per row, (label, value, text behind the bar), from zero."""
    if not rows:
        return ""
    left, right, step, top = 170, 150, 24, 8
    most = max(value for _, value, _ in rows) or 1.0
    scale = _scale(0, most, left, WIDTH - right)
    parts = []
    for place, (label, value, about) in enumerate(rows):
        y = top + step * place
        parts.append(_text(left - 10, y + 16, _fitted(label), "end"))
        parts.append(
            f'<rect class="cell" x="{left}" y="{y + 4}" width="{scale(value) - left:.1f}" '
            f'height="{step - 8}"/>'
        )
        parts.append(_text(scale(value) + 8, y + 16, about, "start"))
    height = top + step * len(rows) + 24
    parts.append(_text(left, height - 6, unit, "start"))
    return _svg(height, parts)


def heatmap(
    columns: Sequence[str],
    rows: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    mark: int | None = None,
    mark_label: str = "",
) -> str:
    """Draw shares from 0 to 1 as shaded cells; `mark` draws a line before that column."""
    left, top, cell = 52, 26, 34
    wide = (WIDTH - left - 10) / max(1, len(columns))
    height = top + cell * len(rows) + 44
    parts = []
    for i, label in enumerate(rows):
        parts.append(_text(left - 8, top + cell * (i + 0.5) + 4, label, "end"))
        for j, value in enumerate(values[i]):
            if value is not None:
                parts.append(_cell(left + wide * j, top + cell * i, wide, cell, value))
    for j, label in enumerate(columns):
        parts.append(_text(left + wide * (j + 0.5), height - 26, label, "middle"))
    parts.append(_text(left + wide * len(columns) / 2, height - 8, "tokens", "middle"))
    if mark is not None:
        x = left + wide * mark
        parts.append(f'<line class="mark" x1="{x}" x2="{x}" y1="{top - 6}" y2="{height - 42}"/>')
        side = "end" if mark > len(columns) / 2 else "start"
        parts.append(_text(x, top - 10, mark_label, side))
    return _svg(height, parts)


def _cell(x: float, y: float, wide: float, high: float, value: float) -> str:
    dark = "on" if value > 0.55 else "off"
    return (
        f'<rect class="cell" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{wide - 2:.1f}" '
        f'height="{high - 2}" style="fill-opacity:{0.04 + 0.96 * value:.2f}"/>'
        f'<text class="{dark}" x="{x + wide / 2:.1f}" y="{y + high / 2 + 4:.1f}" '
        f'text-anchor="middle">{value:.0%}</text>'
    )


def scatter_plot(
    points: Sequence[ScatterPoint], x_label: str, y_label: str, *, logarithmic: bool = False
) -> str:
    """Draw points, and join those on the Pareto front."""
    if not points:
        return ""
    left, bottom, top, height = 44, 46, 22, 320
    xs, ys = [p.x for p in points], [p.y for p in points]
    x_range, y_range = _padded(xs, logarithmic), _padded(ys)
    x = _scale(*x_range, left, WIDTH - 20, logarithmic)
    y = _scale(*y_range, height - bottom, top)
    parts = [_y_tick(value, y(value), left) for value in _ticks(*y_range)]
    ticks = _log_ticks(*x_range) if logarithmic else _ticks(*x_range)
    parts += _x_axis(ticks, x, height - bottom, x_label)
    parts.append(_text(left, 11, y_label, "start"))
    front = sorted((p for p in points if p.best), key=lambda p: p.x)
    parts.append(_polyline([(x(p.x), y(p.y)) for p in front], "front"))
    for p in sorted(points, key=lambda p: p.best):
        parts.append(_dot(x(p.x), y(p.y), p))
    return _svg(height, parts)


def line_chart(curve: Curve, x_label: str, *, smooth: bool = False, dots: bool = False) -> str:
    """Draw a curve of (x, y) points in ascending order of x.

    smooth draws an exponential moving average over the faint curve; dots marks every point.
    """
    if not curve:
        return ""
    left, bottom, top, height = 56, 36, 12, 250
    thinned = _thinned(curve)
    xs, ys = [x for x, _ in thinned], [y for _, y in thinned]
    x = _scale(min(xs), max(xs), left, WIDTH - 20)
    y = _scale(min(ys), max(ys), height - bottom, top)
    parts = [_y_tick(tick, y(tick), left) for tick in _ticks(min(ys), max(ys), 4)]
    parts += _x_axis(_ticks(min(xs), max(xs), 4), x, height - bottom, x_label)
    drawn = [(x(a), y(b)) for a, b in thinned]
    if smooth and len(thinned) > 20:
        parts.append(_polyline(drawn, "faint"))
        drawn = [(x(a), y(b)) for a, b in _smoothed(thinned)]
    parts.append(_polyline(drawn, "curve"))
    if dots or len(drawn) == 1:
        parts += [f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in drawn]
    return _svg(height, parts)


def _thinned(curve: Curve) -> Curve:
    size = -(-len(curve) // POINTS)
    groups = [curve[i : i + size] for i in range(0, len(curve), size)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]


def _smoothed(curve: Curve) -> Curve:
    mean, result = curve[0][1], []
    for x, y in curve:
        mean += 0.1 * (y - mean)
        result.append((x, mean))
    return result


def _polyline(points: Curve, kind: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def _dot(x: float, y: float, point: ScatterPoint) -> str:
    kind = "strong" if point.best else "weak"
    side, shift = ("end", -8) if x > WIDTH * 0.65 else ("start", 8)
    label = _text(x + shift, y + 4, point.label, side)
    tip = f"<title>{escape(point.about or point.label)}: {point.y:.2f}</title>"
    return f'<circle class="dot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="5">{tip}</circle>{label}'


def _fitted(label: str, room: int = 25) -> str:
    """Shorten a label in its middle, since neighbouring labels often differ at their ends."""
    if len(label) <= room:
        return label
    return f"{label[: room // 2]}…{label[len(label) - room // 2 + 1 :]}"


def _y_tick(value: float, y: float, left: float) -> str:
    line = f'<line class="rule" x1="{left}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return line + _text(left - 6, y + 4, f"{value:g}", "end")


def _x_axis(
    ticks: Sequence[float], scale: Callable[[float], float], y: float, label: str
) -> list[str]:
    marks = [_text(scale(tick), y + 14, f"{tick:g}", "middle") for tick in ticks]
    return [*marks, _text(WIDTH - 20, y + 26, label, "end")]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{body}</svg>'


def _padded(values: Sequence[float], logarithmic: bool = False) -> tuple[float, float]:
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.3, high * 1.3
    margin = 0.08 * (high - low) or abs(high) * 0.05 or 1.0
    return low - margin, high + margin


def _scale(
    low: float, high: float, start: float, end: float, logarithmic: bool = False
) -> Callable[[float], float]:
    read = math.log if logarithmic else float
    bottom, top = read(low), read(high)
    return lambda value: start + (end - start) * (read(value) - bottom) / (top - bottom or 1.0)


def _ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers between two values."""
    raw = (high - low) / count or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first = math.ceil(low / step)
    return [round(place * step, 10) for place in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    inside = [mark for mark in marks if low <= mark <= high]
    return inside if len(inside) > 1 else _ticks(low, high, 4)


def column_chart(rows: Sequence[tuple[str, float]], what: str) -> str:
    """Draw a column for each (label, value), with the largest value, first and last label."""
    top, bottom, height = 18, 150, 170
    most = max((value for _, value in rows), default=0.0) or 1.0
    wide = WIDTH / max(1, len(rows))
    parts = [f'<line x1="0" x2="{WIDTH}" y1="{bottom}" y2="{bottom}"/>']
    parts.append(_text(0, 12, f"{most:,.0f} {what}", "start"))
    for place, (label, value) in enumerate(rows):
        tall = (bottom - top) * value / most
        parts.append(
            f'<rect x="{place * wide + 1:.1f}" y="{bottom - tall:.1f}" width="{wide - 2:.1f}" '
            f'height="{tall:.1f}"><title>{escape(label)}: {value:,.0f}</title></rect>'
        )
    if rows:
        parts.append(_text(0, height - 4, rows[0][0], "start"))
        parts.append(_text(WIDTH, height - 4, rows[-1][0], "end"))
    body = "".join(parts)
    label = escape(f"{what}: {most:,.0f} at most")
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">{body}</svg>'
