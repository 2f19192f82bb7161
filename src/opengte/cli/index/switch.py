"""`gte index switch` and `rollback`: an index in another model, and back."""

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors, output
from opengte.cli.common.knowledge_base import index_encoder_loader
from opengte.cli.common.options import ModelOptions, encoder_options, engine_summary, json_option
from opengte.cli.common.progress import progress_bar
from opengte.cli.index.status import knowledge_base_argument

if TYPE_CHECKING:
    from opengte import Encoder
    from opengte.evaluate.significance import PairedTest
    from opengte.search.kb import KnowledgeBase
    from opengte.search.maintenance.compare import IndexComparison
    from opengte.search.maintenance.migrate import Migration, MigrationStats

SHOWN = 5  # questions that changed most
ALPHA = 0.05


@click.command("switch", no_args_is_help=True)
@knowledge_base_argument
@click.option(
    "--queries",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Queries to compare the models on: a text file, or .jsonl, .csv or .tsv with "
    "relevant documents.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, without changing anything.")
@click.option(
    "--hold", is_flag=True, help="Build and compare the new index, but do not switch to it yet."
)
@click.option("--force", is_flag=True, help="Switch even if the new model is significantly worse.")
@click.option(
    "--keep-old/--drop-old",
    default=True,
    show_default=True,
    help="Keep the old index for a rollback.",
)
@click.option(
    "--passages",
    type=click.Choice(["auto", "late", "classic", "none"]),
    default=None,
    help="Passage vectors, as in `gte index run`.  [default: what suits the model]",
)
@click.option(
    "--instruction",
    metavar="TEXT",
    help="Task description for all queries.  [default: the index's]",
)
@json_option
@encoder_options
def switch_command(
    kb: str,
    queries: Path | None,
    dry_run: bool,
    hold: bool,
    force: bool,
    keep_old: bool,
    passages: Any,
    instruction: str | None,
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Re-embed an index with another model, compare both, and switch.

    Meanwhile, the index remains searchable and accepts documents. Repeating the command resumes an
    interrupted switch. With --queries, both models are compared: by their ten best documents, or,
    if relevant documents are given, by nDCG@10 with a paired test; a significantly worse model is
    not switched to.

    \b
    Examples:
      gte index switch kb/ --model thenlper/gte-small --dry-run
      gte index switch kb/ --model thenlper/gte-small --queries questions.txt
      gte index switch kb/ --precision int8 --drop-old
    """
    from opengte.search.calibration import questions
    from opengte.search.kb import KnowledgeBase

    asked = questions.read_questions(queries) if queries else []
    if any(one.relevant for one in asked):
        _check_statistics()
    base = KnowledgeBase.open(kb, load=index_encoder_loader(options))
    encoder = _new_encoder(base, options)
    switch = base.migrate(encoder, passages=passages, instruction=instruction)
    asked, missing = questions.resolve_documents(asked, base.latest())
    for text, name in missing:
        click.echo(f"warning: {text!r}: `{name}` is not in the index", err=True)
    if dry_run:
        _show_plan(switch.plan(), switch, as_json=as_json)
        return
    done = _build(switch)
    found = None
    if asked:
        from opengte.search.maintenance.compare import compare_indexes

        found = compare_indexes(switch.old, switch.new, asked)
    paired = _paired(found)
    worse = paired is not None and paired.p < ALPHA and paired.difference < 0
    refused = worse and not force
    if not (hold or refused):
        switch.commit(keep_old=keep_old)
    row = _row(switch, done, found, paired, switched=not (hold or refused), kept=keep_old)
    output.print_json(row) if as_json else _show_contrast(found, paired)
    _summarise(row, done, encoder)
    if refused:
        click.echo("error: the new model is worse on these queries: not switched", err=True)
        click.echo("hint: --force switches anyway", err=True)
        raise click.exceptions.Exit(errors.FAILED)


@click.command("rollback", no_args_is_help=True)
@knowledge_base_argument
@click.option("--dry-run", is_flag=True, help="Show what would be done, without changing anything.")
@json_option
@encoder_options
def rollback_command(kb: str, dry_run: bool, as_json: bool, options: ModelOptions) -> None:
    """Go back to the index that `gte index switch` replaced.

    Documents that changed since then are embedded with its model first. A second rollback undoes
    the first.

    \b
    Examples:
      gte index rollback kb/
      gte index rollback kb/ --dry-run
    """
    from opengte.search.kb import KnowledgeBase

    switch = KnowledgeBase.open(kb, load=index_encoder_loader(options)).rollback()
    if dry_run:
        _show_plan(switch.plan(), switch, as_json=as_json)
        return
    done = _build(switch)
    switch.commit()
    row = _row(switch, done, None, None, switched=True, kept=True)
    if as_json:
        output.print_json(row)
    _summarise(row, done, None)


def _new_encoder(base: "KnowledgeBase", options: ModelOptions) -> "Encoder":
    """Load the model to switch to: the named one, or the index's own with other settings."""
    source = click.get_current_context().get_parameter_source("model")
    named = source == click.core.ParameterSource.COMMANDLINE
    if not named and options.precision == "auto" and options.max_length is None:
        raise click.UsageError("Specify what to switch to: --model, --precision or --max-length.")
    return replace(options, model=options.model if named else base.identity.model).load_encoder()


def _check_statistics() -> None:
    """Raise MissingExtraError before the long work instead of after it."""
    from opengte.evaluate.significance import paired_test

    paired_test([0.0, 0.0], [0.0, 1.0])


def _build(switch: "Migration") -> "MigrationStats":
    total = switch.old.store.count() if sys.stderr.isatty() else None
    with progress_bar(" documents", total=total) as advance:
        try:
            return switch.build(advance)
        except KeyboardInterrupt as interruption:
            interruption.add_note("the index is unchanged; repeat the command to resume the switch")
            raise


def _paired(found: "IndexComparison | None") -> "PairedTest | None":
    if found is None or found.values is None:
        return None
    from opengte.evaluate.significance import paired_test

    old, new = found.values
    return paired_test([100 * one for one in old], [100 * one for one in new])


def _row(
    switch: "Migration",
    done: "MigrationStats",
    found: "IndexComparison | None",
    paired: "PairedTest | None",
    *,
    switched: bool,
    kept: bool,
) -> dict[str, Any]:
    old, new = switch.old.identity, switch.new.identity
    row: dict[str, Any] = {
        "old": old.settings(),
        "new": new.settings(),
        "switched": switched,
        "old_kept": kept or not switched,
        "documents": asdict(done),
    }
    if found is not None:
        row["comparison"] = {
            "questions": len(found.changes),
            "overlap@10": round(found.overlap, 4),
            "rank_correlation": round(found.correlation, 4),
            "same_first": round(found.same_first, 4),
            "nDCG@10": asdict(paired) if paired else None,
            "changes": [asdict(one) for one in found.changes],
        }
    return row


def _show_plan(plan: "MigrationStats", switch: "Migration", *, as_json: bool) -> None:
    if as_json:
        names = {"old": switch.old.identity.model, "new": switch.settings["model"]["model"]}
        output.print_json({**names, **asdict(plan)})
        return
    there = plan.documents - plan.embedded - plan.copied
    click.echo(
        f"{plan.documents:,} documents: {plan.embedded:,} would be embedded, {plan.copied:,} "
        f"rewritten, {there:,} are up to date, {plan.removed:,} would be removed"
    )


def _show_contrast(found: "IndexComparison | None", paired: "PairedTest | None") -> None:
    if found is None:
        return
    click.echo(
        f"{len(found.changes):,} queries: overlap@10 {found.overlap:.2f}, rank correlation "
        f"{found.correlation:.2f}, the same first document in {found.same_first:.0%}"
    )
    if paired is not None:
        click.echo(
            f"nDCG@10: {paired.mean_a:.1f} -> {paired.mean_b:.1f} ({paired.difference:+.1f}, 95 % "
            f"interval {paired.low:+.1f} to {paired.high:+.1f}, p = {paired.p:.3g}, "
            f"{paired.n} queries)"
        )
    for one in found.changes[:SHOWN]:
        if one.old == one.new:
            break
        click.echo(f"  {output.one_line(one.question, 20)}  (overlap {one.overlap:.1f})")
        click.echo(f"    was  {output.one_line(', '.join(one.old[:3]), 10)}")
        click.echo(f"    is   {output.one_line(', '.join(one.new[:3]), 10)}")


def _summarise(row: dict[str, Any], done: "MigrationStats", encoder: "Encoder | None") -> None:
    parts = [f"{done.documents:,} documents: {done.embedded:,} embedded"]
    parts[0] += f" {engine_summary(encoder)}" if encoder and done.embedded else ""
    parts += [f"{done.copied:,} rewritten"] * bool(done.copied)
    parts += [f"{done.removed:,} removed"] * bool(done.removed)
    parts += [f"{done.truncated:,} truncated"] * bool(done.truncated)
    parts += [f"maintenance failed: {reason}" for reason in done.upkeep]
    change = f"{row['old']['model']} ({row['old']['precision']}) -> "
    change += f"{row['new']['model']} ({row['new']['precision']})"
    if row["switched"]:
        kept = "undo with `gte index rollback`" if row["old_kept"] else "the old index was deleted"
        parts.append(f"switched: {change}; {kept}")
    else:
        parts.append(f"not switched: {change} is built; repeat the command to switch")
    click.echo("; ".join(parts), err=True)
