"""A report as data, and its three formats: HTML, Markdown and JSON.

The HTML page is self-contained: no scripts, and no external fonts or images.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from opengte.errors import InputError

Cell = str | int | float | None
FORMS = (".html", ".md", ".json")
WRAPPED = 32  # characters; longer cells may take several lines


@dataclass(frozen=True)
class ReportTable:
    """A table; strong holds the indices of emphasised rows; wrapped breaks long cells."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    strong: frozenset[int] = frozenset()
    digits: int = 2
    wrapped: bool = False


@dataclass(frozen=True)
class ReportSection:
    """A heading with text, a plot (SVG) and tables; a folded section is collapsed on the page."""

    title: str
    text: str = ""
    plot: str = ""
    tables: Sequence[ReportTable] = ()
    folded: bool = False


@dataclass(frozen=True)
class EvaluationReport:
    """The result of an evaluation: the verdict, sections, and the facts of how it was done."""

    title: str
    verdict: str
    sections: Sequence[ReportSection]
    facts: Mapping[str, Cell] = field(default_factory=dict)
    data: Any = None  # for machines


def check_report_path(path: Path) -> None:
    """Raise InputError for a report file of an unknown format, or in a missing folder."""
    if path.suffix.lower() not in FORMS:
        raise InputError(f"report is `{path}`, expected a name that ends in {', '.join(FORMS)}")
    if not path.resolve().parent.is_dir():
        raise InputError(f"report is `{path}`, but there is no folder `{path.resolve().parent}`")


def write_report(report: EvaluationReport, path: Path) -> None:
    """Write a report in the format that the file's suffix names: .html, .md or .json.

    Raises InputError for another suffix or a missing folder.

    >>> from pathlib import Path
    >>> write_report(EvaluationReport("minilm", "Good.", []), Path("report.md"))
    >>> Path("report.md").read_text().splitlines()[0]
    '# minilm'
    """
    check_report_path(path)
    forms = {".html": to_html, ".md": to_markdown, ".json": to_json}
    path.write_text(forms[path.suffix.lower()](report), encoding="utf-8")


def to_json(report: EvaluationReport) -> str:
    """Return the report as JSON."""
    value = {"title": report.title, "verdict": report.verdict, "facts": dict(report.facts)}
    return json.dumps({**value, "data": report.data}, indent=1, ensure_ascii=False) + "\n"


def to_markdown(report: EvaluationReport) -> str:
    """Return the report as Markdown: no plots, folded sections as details."""
    parts = [f"# {report.title}", report.verdict]
    for section in report.sections:
        body = [section.text, *map(_markdown_table, section.tables)]
        inner = "\n\n".join(part for part in body if part)
        if section.folded:
            inner = f"<details><summary>{section.title}</summary>\n\n{inner}\n\n</details>"
            parts.append(inner)
        else:
            parts += [f"## {section.title}", inner]
    facts = [(name, value) for name, value in report.facts.items() if value is not None]
    parts += ["## How", _markdown_table(ReportTable(("", ""), facts))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _markdown_table(table: ReportTable) -> str:
    right = _numeric(table)
    rule = ["---:" if number else "---" for number in right]
    rows = [
        [
            _bold(_shown(cell, table.digits).replace("|", "\\|"), place in table.strong)
            for cell in row
        ]
        for place, row in enumerate(table.rows)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(table.header), rule, *rows])


def _bold(text: str, strong: bool) -> str:
    return f"**{text}**" if strong and text else text


def to_html(report: EvaluationReport) -> str:
    """Return one self-contained page."""
    facts = [(name, value) for name, value in report.facts.items() if value is not None]
    how = ReportSection("How it was done", tables=[ReportTable(("", ""), facts, wrapped=True)])
    body = "\n".join(_section(section) for section in (*report.sections, how))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<h1>{escape(report.title)}</h1>\n<p class=verdict>{_inline(report.verdict)}</p>\n"
        f"{body}\n</main></body></html>\n"
    )


def _section(section: ReportSection) -> str:
    text = "".join(f"<p>{_inline(part)}</p>" for part in section.text.split("\n\n") if part)
    tables = "".join(_table(table) for table in section.tables)
    plot = f"<figure>{section.plot}</figure>" if section.plot else ""
    title = escape(section.title)
    if section.folded:
        return f"<details><summary>{title}</summary>{text}{plot}{tables}</details>"
    return f"<section><h2>{title}</h2>{text}{plot}{tables}</section>"


def _table(table: ReportTable) -> str:
    right = _numeric(table)
    head = "".join(_html_cell("th", name, r) for name, r in zip(table.header, right, strict=True))
    rows = []
    for place, row in enumerate(table.rows):
        cells = [_shown(cell, table.digits) for cell in row]
        inner = "".join(_html_cell("td", cell, r) for cell, r in zip(cells, right, strict=True))
        rows.append(
            f"<tr class=strong>{inner}</tr>" if place in table.strong else f"<tr>{inner}</tr>"
        )
    top = f"<thead><tr>{head}</tr></thead>" if any(table.header) else ""
    kind = " class=wrapped" if table.wrapped else ""
    return f"<div class=scroll><table{kind}>{top}<tbody>{''.join(rows)}</tbody></table></div>"


def _inline(text: str) -> str:
    """Escape a text, with `code` marked as such."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _html_cell(tag: str, text: str, right: bool) -> str:
    kind = " class=n" if right else " class=w" if len(text) > WRAPPED else ""
    return f"<{tag}{kind}>{_inline(text)}</{tag}>"


def _numeric(table: ReportTable) -> list[bool]:
    """Return which columns hold numbers."""
    columns = [[row[place] for row in table.rows] for place in range(len(table.header))]
    return [
        any(isinstance(cell, int | float) for cell in column)
        and not any(isinstance(cell, str) and cell for cell in column)
        for column in columns
    ]


def _shown(cell: Cell, digits: int) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return re.sub(r"^-(0\.?0*)$", r"\1", f"{cell:,.{digits}f}")  # no -0.00
    return f"{cell:,}" if isinstance(cell, int) else cell


STYLE = """
:root{--ink:#1b1f24;--soft:#5b6672;--line:#dfe3e8;--page:#fff;--tint:#f5f7f9;--main:#1f5fae;
--warn:#b3420a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5b1;--line:#333b44;--page:#14181c;
--tint:#1d2329;--main:#6aa6f0;--warn:#f0975a}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;line-height:1.25;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p{margin:.5rem 0;max-width:46rem;overflow-wrap:anywhere}code{font-size:.9em}
.verdict{font-size:1.05rem;padding:.8rem 1rem;background:var(--tint);max-width:none;
border-left:4px solid var(--main)}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.875rem;width:100%}
th,td{text-align:left;padding:.35rem .6rem .35rem 0;border-bottom:1px solid var(--line);
vertical-align:top}
th{color:var(--soft);font-weight:600;white-space:nowrap}
td{white-space:nowrap}td.w{white-space:normal;overflow-wrap:anywhere;min-width:14rem}
.wrapped td{white-space:normal;overflow-wrap:anywhere;min-width:0}
.wrapped td:first-child{width:34%}
.n{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.strong td{color:var(--warn);font-weight:600}
details{margin:1rem 0;border-top:1px solid var(--line);padding-top:.6rem}
summary{cursor:pointer;font-weight:600}
figure{margin:.8rem 0}svg{width:100%;max-width:40rem;height:auto;display:block}
svg text{font-size:12px;fill:var(--ink)}svg text.on{fill:var(--page)}
.axis,.rule{stroke:var(--line);stroke-width:1}.axis{stroke:var(--soft)}
.bar{stroke-width:3;stroke-linecap:round}.bar.weak{stroke:var(--soft);opacity:.55}
.bar.strong{stroke:var(--main)}.dot.weak{fill:var(--soft)}.dot.strong{fill:var(--main)}
.cell{fill:var(--main)}.mark{stroke:var(--warn);stroke-width:2;stroke-dasharray:4 3}
.front{fill:none;stroke:var(--main);stroke-width:2;opacity:.6}
"""
