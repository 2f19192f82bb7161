"""`gte index calibrate`: how sure an index's answers are, learned and stated."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from opengte.cli.common import output
from opengte.cli.common.knowledge_base import encoder_loader, load_reranker
from opengte.cli.common.options import ModelOptions, encoder_options, json_option
from opengte.cli.index.status import knowledge_base_argument

if TYPE_CHECKING:
    from opengte.search.calibration.confidence import Calibration, ProbabilityScores


@click.command("calibrate", no_args_is_help=True)
@knowledge_base_argument
@click.option(
    "--labelled",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Labelled queries with their relevant documents: .jsonl, .csv or .tsv.",
)
@click.option(
    "--generate",
    type=click.IntRange(1),
    metavar="N",
    help="Generate queries from N documents.  [default: 300, without --labelled]",
)
@click.option("--reranker", metavar="MODEL", help="Calibrate searches that use this reranker.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option("--show", "shown", is_flag=True, help="Show the current calibration and exit.")
@click.option("--forget", is_flag=True, help="Delete the current calibration.")
@json_option
@encoder_options
def command(
    kb: str,
    labelled: Path | None,
    generate: int | None,
    reranker: str | None,
    seed: int,
    shown: bool,
    forget: bool,
    as_json: bool,
    options: ModelOptions,
) -> None:
    """Calibrate confidences, and the threshold for unanswerable queries.

    Learns from labelled queries, or from queries generated from the documents; queries whose
    document is hidden, and queries about something else, count as unanswerable. Afterwards
    `gte search --in KB` shows a confidence, and --min-confidence uses it. The printed figures are
    measured on held-out queries.

    \b
    FILE has an object on each line, such as
      {"query": "parental leave", "relevant": ["hr/handbook.pdf"]}
      {"query": "who won the cup?", "relevant": []}

    \b
    Examples:
      gte index calibrate kb/
      gte index calibrate kb/ --labelled questions.jsonl
      gte search "parental leave" --in kb/ --min-confidence auto
    """
    if sum((labelled is not None, generate is not None, shown, forget)) > 1:
        raise click.UsageError("Give one of --labelled, --generate, --show and --forget.")
    from opengte.search.calibration import questions
    from opengte.search.kb import KnowledgeBase

    asked = questions.read_questions(labelled) if labelled else None
    base = KnowledgeBase.open(kb, load=encoder_loader(options))
    if forget:
        base.forget_calibration()
        return
    if shown:
        found = base.calibration
        if found is None:
            click.echo("not calibrated, or calibrated with another model", err=True)
            return
        _show(found, as_json=as_json)
        return
    if asked is not None:
        asked, missing = questions.resolve_documents(asked, base.latest())
        for text, name in missing:
            click.echo(f"warning: {text!r}: `{name}` is not in the index", err=True)
    made = base.calibrate(
        asked, generate=generate or 300, seed=seed, reranker=load_reranker(reranker, options)
    )
    _show(made, as_json=as_json)


def _show(found: "Calibration", *, as_json: bool) -> None:
    accuracy = found.accuracy
    if as_json:
        row = {**asdict(accuracy), "way": dict(found.way), "learned_from": found.learned_from}
        output.print_json({**row, "made": found.made})
        return
    click.echo(
        f"calibrated on {accuracy.questions:,} {found.learned_from} queries, "
        f"{accuracy.unanswerable:,} of them unanswerable, and {accuracy.off_topic:,} about "
        "something else; on held-out folds:"
    )
    click.echo(_line("hit is relevant", accuracy.hit))
    click.echo(_line("answer exists", accuracy.there))
    for what, found_auc in (
        ("document missing", accuracy.auc_hidden),
        ("off topic", accuracy.auc_off_topic),
    ):
        if found_auc is not None:
            click.echo(f"  against {what:<17} AUC {found_auc:.3f}")
    others = "off-topic" if accuracy.off_topic else "unanswerable"
    click.echo(
        f"threshold {accuracy.threshold:.2f}: rejects {accuracy.missed:.0%} of the answerable "
        f"queries and accepts {accuracy.passed:.0%} of the {others} ones"
    )
    if found.learned_from == "generated":
        click.echo("note: real queries differ from generated ones", err=True)


def _line(what: str, found: "ProbabilityScores") -> str:
    auc = "unknown" if found.auc is None else f"{found.auc:.3f}"
    return (
        f"  {what:<20}{found.rate:4.0%} positive; Brier {found.brier:.3f} (baseline "
        f"{found.always:.3f}), calibration error {found.ece:.3f}, AUC {auc}"
    )
