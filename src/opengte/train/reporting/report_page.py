"""A page of plots of a run, without scripts or external files."""

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from opengte.svg import Curve, line_chart
from opengte.train.reporting.training_log import EVALUATIONS, LOG, STEPS, read_table

PAGE = "report.html"

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


def write_report(folder: Path) -> None:
    """Write the page from the tables in the folder of a run."""
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
    chart = line_chart(curve, "step", smooth=smooth, dots=dots)
    return f"<figure><h2>{escape(title)}: {curve[-1][1]:.4g}</h2>{chart}</figure>"
