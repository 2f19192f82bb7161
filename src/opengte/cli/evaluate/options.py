"""Options and output that the commands of `gte eval` share."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import AnyFunction, ModelOptions, options_record, run_options

if TYPE_CHECKING:
    from opengte.evaluate.report import EvaluationReport

model_argument = options_record(ModelOptions, "options", click.argument("model"), run_options)


dimensions_option = click.option(
    "--dimensions",
    type=click.IntRange(1),
    metavar="N",
    help="Truncate vectors to their first N dimensions.",
)


truncation_option = click.option(
    "--truncation",
    type=click.Choice(["right", "left", "error"]),
    default="right",
    show_default=True,
    help="Side from which overlong texts are truncated; `error` rejects them.",
)


report_option = click.option(
    "--report",
    "reports",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a report (.html, .md or .json); repeatable.",
)


def checked_reports(function: AnyFunction) -> AnyFunction:
    """Add `--report`, and check the names before any work begins."""

    @report_option
    @functools.wraps(function)
    def wrapper(reports: tuple[Path, ...], **values: Any) -> Any:
        from opengte.evaluate import report

        for path in reports:
            report.check_report_path(path)
        return function(reports=reports, **values)

    return wrapper


def write_reports(reports: tuple[Path, ...], content: "EvaluationReport") -> None:
    """Write a report to each file, in the format that the file's name implies."""
    from opengte.evaluate import report

    for path in reports:
        report.write_report(content, path)
        click.echo(f"wrote {path}", err=True)


def print_report(content: "EvaluationReport", as_json: bool) -> None:
    """Print the verdict and the tables of a report, or one JSON object."""
    if as_json:
        facts = dict(content.facts)
        output.print_json({"verdict": content.verdict, "facts": facts, "data": content.data})
        return
    for section in content.sections:
        if section.folded or not section.tables:
            continue
        click.echo(f"{section.title}:")
        for table in section.tables:
            output.print_table(table.header, [table_cells(row) for row in table.rows])
        click.echo()
    click.echo(content.verdict)


def table_cells(row: Any) -> list[object]:
    """Return the cells of a row, with numbers to two decimals."""
    return [f"{cell:8.2f}" if isinstance(cell, float) else cell for cell in row]


def split_names(text: str | None) -> list[str]:
    """Return names that are separated by commas."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def split_numbers(option: str, text: str | None, least: int = 1) -> list[int]:
    """Return whole numbers that are separated by commas; UsageError for anything else."""
    parts = split_names(text)
    if any(not part.isdigit() or int(part) < least for part in parts):
        raise click.UsageError(f"{option} is {text}, expected whole numbers separated by commas.")
    return [int(part) for part in parts]
