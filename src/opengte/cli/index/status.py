"""`gte index status`, `duplicates`, `export`, `import`: what an index holds, copies of it."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option

if TYPE_CHECKING:
    from opengte.search.kb import KnowledgeBase
    from opengte.search.maintenance.status import IndexStatus

knowledge_base_argument = click.argument("kb", metavar="KB")


@click.command("status", no_args_is_help=True)
@knowledge_base_argument
@click.option(
    "--problems",
    is_flag=True,
    help="List files that failed, were skipped or have warnings, by reason.",
)
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    metavar="N",
    help="Number of queries for the recall probe; 0 disables it.",
)
@json_option
def status_command(kb: str, problems: bool, sample: int, as_json: bool) -> None:
    """Show the contents of an index and the recall of its fast search.

    The recall probe compares approximate with exact search, for passages of documents from all over
    the index.

    \b
    Examples:
      gte index status kb/
      gte index status kb/ --problems --json
    """
    from opengte.search.kb import KnowledgeBase

    base = KnowledgeBase.open(kb)
    if problems:
        _list_problems(base, as_json=as_json)
        return
    found = base.status(sample)
    if as_json:
        output.print_json(_status_row(found))
        return
    for name, value in _status_lines(found):
        click.echo(f"{name:<14}{value}")


def _list_problems(base: "KnowledgeBase", *, as_json: bool) -> None:
    from opengte.search.maintenance.status import group_by_reason

    if as_json:
        for problem in base.problems():
            output.print_json(problem._asdict())
        return
    for group in group_by_reason(base.problems()):
        click.echo(f"{group.kind}: {group.reason} ({len(group.places):,})")
        for place in group.places:
            click.echo(f"  {place}")


def _status_row(found: "IndexStatus") -> dict[str, Any]:
    row = asdict(found)
    row["calibration"] = found.calibration.settings() if found.calibration else None
    row["health"]["details"] = {name: str(value) for name, value in found.health.details.items()}
    return row


def _status_lines(found: "IndexStatus") -> list[tuple[str, str]]:
    health = found.health
    lines = [
        ("model", f"{found.model} ({found.fingerprint[:12]})"),
        ("documents", f"{health.documents:,} in {health.windows:,} windows"),
        (
            "files",
            f"{found.files:,} read: {found.problems:,} failed, {found.warnings:,} with warnings; "
            f"{found.skipped:,} skipped",
        ),
    ]
    if found.before:
        lines.append(("previous", f"{found.before}, kept for `gte index rollback`"))
    if found.calibration:
        learned = found.calibration
        lines.append(
            (
                "confidence",
                f"calibrated on {learned.accuracy.questions:,} {learned.learned_from} queries",
            )
        )
    if health.bytes is not None:
        lines.append(("size", output.format_bytes(health.bytes)))
    lines.append(("versions", f"{health.versions:,} kept"))
    for name, value in health.details.items():
        lines.append((name, str(value)))
    for name, kind in health.indexes.items():
        lines.append((f"index {name}", f"{kind}, {health.unindexed[name]:,} rows not indexed yet"))
    if found.recall:
        recall = found.recall
        lines.append(
            (
                "recall@10",
                f"{recall.value:.3f} (worst {recall.worst:.2f}) on {recall.questions} queries; "
                f"{1000 * recall.seconds:.1f} ms, exact {1000 * recall.exact_seconds:.1f} ms",
            )
        )
    return lines


@click.command("export", no_args_is_help=True)
@knowledge_base_argument
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
def export_command(kb: str, file: Path) -> None:
    """Export an index to a Parquet file.

    Each row is a window of a document, with its text, vectors and metadata.

    \b
    Examples:
      gte index export kb/ kb.parquet
      gte index export s3://bucket/kb kb.parquet
    """
    from opengte.search.kb import KnowledgeBase

    count = KnowledgeBase.open(kb).export(file)
    click.echo(f"wrote {count:,} documents to {file}", err=True)


@click.command("import", no_args_is_help=True)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--to",
    "kb",
    required=True,
    metavar="KB",
    help="Location of the index: a folder or an s3:// URL.",
)
def import_command(file: Path, kb: str) -> None:
    """Create an index from a file written by `gte index export`.

    \b
    Examples:
      gte index import kb.parquet --to kb2/
      gte index import kb.parquet --to s3://bucket/kb
    """
    from opengte.search.kb import KnowledgeBase

    count = KnowledgeBase.restore(file, kb).store.count()
    click.echo(f"created {kb} with {count:,} documents", err=True)


@click.command("duplicates", no_args_is_help=True)
@knowledge_base_argument
@json_option
def duplicates_command(kb: str, as_json: bool) -> None:
    """List near-duplicate documents, one group per line.

    \b
    Examples:
      gte index duplicates kb/
      gte index duplicates kb/ --json
    """
    from opengte.search.kb import KnowledgeBase

    groups = KnowledgeBase.open(kb).duplicates()
    for group in groups:
        output.print_json({"documents": group}) if as_json else click.echo("  ".join(group))
    click.echo(f"{len(groups):,} groups of near-duplicates", err=True)
