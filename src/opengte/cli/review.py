"""`gte review`: whether data, model, retrieval or workflow make answers poor."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common.knowledge_base import index_encoder_loader
from opengte.cli.common.options import ModelOptions, encoder_options, json_option
from opengte.cli.evaluate.options import checked_reports, print_report, write_reports
from opengte.cli.search.index import IndexOptions, search_values

if TYPE_CHECKING:
    from opengte.review.logs import QueryLog
    from opengte.review.redaction import Redactor

UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def _seconds(ctx: click.Context, parameter: click.Parameter, value: str) -> float:
    """Read a duration, such as 90s, 10m or 1h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", value)
    if match is None or float(match[1]) == 0:
        raise click.BadParameter(f"{value!r} is no duration: expected such as 90s, 10m or 1h.")
    return float(match[1]) * UNITS[match[2]]


_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("review", no_args_is_help=True)
@click.argument("kb")
@click.option(
    "--queries",
    required=True,
    type=_file,
    metavar="LOG",
    help="Queries: text, .csv, or .jsonl with queries, UBI events or OpenTelemetry spans.",
)
@click.option(
    "--judgments", type=_file, metavar="FILE", help="Right answers: qrels, or .jsonl, .csv."
)
@click.option(
    "--sources",
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH",
    help="What the index was made of: the folder or file, or .jsonl with id and text.",
)
@click.option(
    "--try-model", "models", multiple=True, metavar="MODEL", help="Another model; repeatable."
)
@click.option(
    "--try-reranker", "rerankers", multiple=True, metavar="MODEL", help="A reranker; repeatable."
)
@click.option("--language", multiple=True, metavar="NAME", help="A stemmer to try; repeatable.")
@click.option("-k", "top", type=click.IntRange(1), default=10, show_default=True, metavar="N",
              help="Results that are shown.")  # fmt: skip
@click.option("--where", multiple=True, metavar="FIELD=VALUE", help="The filter in use.")
@click.option("--leg", multiple=True, type=click.Choice(["dense", "sparse", "lexical"]),
              help="Retrieval method in use; repeatable.")  # fmt: skip
@click.option("--fusion", type=click.Choice(["rrf", "weighted"]), help="The fusion in use.")
@click.option("--weight", multiple=True, metavar="LEG=W", help="A weight in use; repeatable.")
@click.option("--exact", is_flag=True, help="Approximate search is not in use.")
@click.option("--reranker", metavar="MODEL", help="The reranker in use.")
@click.option("--min-confidence", metavar="X", help="The threshold in use, or `auto`.")
@click.option("--budget", default="10m", show_default=True, callback=_seconds, metavar="TIME",
              help="Changes that would take longer are not tried.")  # fmt: skip
@click.option("--price", type=click.FloatRange(0), metavar="X", help="Of an hour of this machine.")
@click.option("--redact", multiple=True, metavar="REGEX", help="Hide this too; repeatable.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@json_option
@checked_reports
@encoder_options
def command(
    kb: str, queries: Path, judgments: Path | None, as_json: bool, reports: tuple[Path, ...],
    options: ModelOptions, redact: tuple[str, ...], **given: Any,
) -> None:  # fmt: skip
    """Find what would make the answers of an index better, and its cost.

    Replays the queries with one part of the pipeline exchanged at a time (data, model, retrieval,
    workflow), tests each difference, and ranks the next steps by what they bring. The index is only
    read. Options that say what is in use are those of `gte search --in`.

    \b
    Examples:
      gte review kb/ --queries log.txt
      gte review kb/ --queries log.jsonl --judgments qrels.tsv --report review.html
      gte review kb/ --queries log.csv --sources docs/ --try-model mpnet --price 0.09
    """
    from opengte.review import judgments as judging
    from opengte.review import logs, redaction, report

    log = logs.read_log(queries)
    labels = judging.read_judgments(judgments) if judgments else None
    redactor = redaction.Redactor(redact)
    _show_log(log, redactor)
    found = _review(kb, log, labels, options, **given)
    made = report.review_report(found, redactor)
    print_report(made, as_json)
    write_reports(reports, made)


def _review(kb: str, log: "QueryLog", labels: Any, options: ModelOptions, **given: Any) -> Any:
    from opengte.review import judgments, run, sources
    from opengte.review.pipeline import Pipeline
    from opengte.search.index import Index
    from opengte.search.retrieval.search import SearchOptions

    index = Index.open(kb, load=index_encoder_loader(options))
    asked, missing = judgments.judge(log, index, labels)
    named = dict.fromkeys(f for f in IndexOptions.__dataclass_fields__)
    in_use = IndexOptions(**{**named, **{x: given[x] for x in named if x in given}})
    values = search_values(in_use)
    values["where"] = index.filter(values["where"])
    least = given["min_confidence"]
    live = Pipeline(
        SearchOptions(k=given["top"], **values),
        reranker=given["reranker"],
        threshold=least if least in (None, "auto") else _number(least),
    )
    path = given["sources"]
    stemmers = dict.fromkeys(["English", None, *given["language"]])
    return run.review(
        index,
        asked,
        live,
        missing=missing,
        sources=None if path is None else sources.read_sources(index, path),
        models={x: partial(_load, x, "Encoder", options) for x in given["models"]},
        rerankers={
            x: partial(_load, x, "Reranker", options)
            for x in dict.fromkeys([*given["rerankers"], given["reranker"]])
            if x is not None
        },
        options=run.ReviewOptions(
            seconds=given["budget"],
            seed=given["seed"],
            price=given["price"],
            languages=tuple(stemmers),
            sources=str(path or "SOURCES"),
        ),
        notify=lambda name: click.echo(f"trying {name}", err=True),
    )


def _load(name: str, kind: str, options: ModelOptions) -> Any:
    import opengte

    return getattr(opengte, kind).load(name, engine=options.engine, threads=options.threads)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise click.UsageError(f"--min-confidence is {text!r}, expected a number or auto") from None


def _show_log(log: "QueryLog", redactor: "Redactor") -> None:
    """Say what of the log is used, and what is hidden before anything is written."""
    click.echo(f"{len(log.queries):,} queries", err=True)
    for reason, count, place in log.summary():
        click.echo(f"not used: {count:,} rows, the first at {place}: {reason}", err=True)
    preview = redactor.preview(one.text for one in log.queries)
    for name, count in preview.changed.items():
        shown = "; ".join(preview.examples[name])
        click.echo(f"hidden: {name} in {count:,} queries, written as: {shown}", err=True)
