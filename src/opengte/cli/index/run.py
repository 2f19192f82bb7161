"""`gte index run`: bring an index up to date with files and folders."""

import contextlib
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common import errors, output
from opengte.cli.common.knowledge_base import encoder_loader
from opengte.cli.common.options import ModelOptions, encoder_options, engine_summary, json_option
from opengte.cli.common.progress import progress_bar
from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte import LateInteraction
    from opengte.search.ingest.writer import IngestReport
    from opengte.search.kb import KnowledgeBase

SHOWN = 10  # problems that are printed unless all are asked for
SCALE_BYTES = 4  # of a token vector, beside one for each dimension
REASONS = 5  # for which files were skipped, in a summary


@click.command("run", no_args_is_help=True)
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATHS...",
)
@click.option(
    "--to",
    "kb",
    required=True,
    metavar="KB",
    help="Location of the index: a folder or an s3:// URL.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be done, without changing anything.")
@click.option("--keep", is_flag=True, help="Keep documents whose files no longer exist.")
@click.option(
    "--retry",
    is_flag=True,
    help="Read files again that failed or had warnings, even if they have not changed.",
)
@click.option(
    "--allow-empty",
    is_flag=True,
    help="Remove all documents of a folder that is empty or gone.",
)
@click.option(
    "--watch", is_flag=True, help="Go on: index what changes, within seconds, until interrupted."
)
@click.option(
    "--as", "name", metavar="NAME", help="Name of the folder in ids.  [default: its own name]"
)
@click.option(
    "--passages",
    type=click.Choice(["auto", "late", "classic", "none"]),
    default=None,
    help="Passage vectors: pooled from the document's token vectors (late chunking), or "
    "embedded one by one (classic).  [default: auto]",
)
@click.option(
    "--passage-tokens",
    type=click.IntRange(8),
    metavar="N",
    help="Maximum tokens per passage.  [default: 96]",
)
@click.option(
    "--window-tokens",
    type=click.IntRange(16),
    metavar="N",
    help="Maximum tokens per forward pass of a document.  [default: the model's limit]",
)
@click.option(
    "--first-pass",
    type=click.IntRange(1),
    metavar="N",
    help="Retrieve candidates with the first N dimensions (Matryoshka models).",
)
@click.option(
    "--language",
    metavar="NAME",
    help="Language for stemming, or `none`.  [default: English]",
)
@click.option(
    "--instruction", metavar="TEXT", help="Task description for all queries to this index."
)
@click.option(
    "--late",
    metavar="MODEL",
    help="Late-interaction model: keep token vectors of every passage, and rescore by MaxSim.",
)
@click.option(
    "--text-field", multiple=True, metavar="NAME", help="Field or column with the text; repeatable."
)
@click.option("--title-field", metavar="NAME", help="Field or column with the title.")
@click.option("--id-field", metavar="NAME", help="Field or column with the row's id.")
@click.option(
    "--max-bytes", type=click.IntRange(1), metavar="N", help="Skip larger files (except tables)."
)
@click.option(
    "--ocr",
    default="auto",
    show_default=True,
    metavar="auto|off|LANGS",
    help="Languages for pages of PDFs that are pictures, such as eng+deu; needs Tesseract.",
)
@json_option
@encoder_options
def command(paths: tuple[Path, ...], kb: str, **values: Any) -> None:
    """Bring an index up to date with files and folders.

    Reads text, Markdown, HTML, PDF, office documents, e-books, source code, e-mail, archives, and
    each row of JSON Lines, CSV and Parquet. Unchanged documents are not embedded again; documents
    whose files no longer exist in PATHS are removed, unless all of them are gone, as after a disk
    was not mounted. Files that cannot be read are listed, and the others are indexed. An
    interrupted run resumes. The settings of an index are fixed when it is created.

    \b
    Examples:
      gte index run notes/ handbook.pdf --to kb/
      gte index run rows.jsonl --to kb/ --text-field body --id-field url
      gte index run notes/ --to kb/ --dry-run
      gte index run notes/ --to kb/ --watch
      gte index run notes/ --to kb/ --late lightonai/LateOn
      gte index run /mnt/disk/notes --to kb/ --as old-notes
    """
    from opengte.search.index import index_exists
    from opengte.search.ingest.pipeline import file_sizes

    as_json, options = values.pop("as_json"), values.pop("options")
    watch = values.pop("watch")
    chosen = _run_options(values)
    if not index_exists(kb) and (missing := [path for path in paths if not path.exists()]):
        raise InputError(f"`{missing[0]}` does not exist")
    base = _opened(kb, options, values, dry_run=chosen.dry_run)
    if watch:
        _watch(base, [str(path) for path in paths], chosen)
        return
    late = base.settings.get("late")
    total = None
    if sys.stderr.isatty() or late:
        total = sum(file_sizes([str(path) for path in paths]))
    if late and total is not None and not chosen.dry_run:
        click.echo(_late_note(late, total), err=True)
    total = total if sys.stderr.isatty() else None
    with progress_bar("B", total=total) as advance:
        try:
            report = base.index(paths, chosen, lambda path, size: advance(size))
        except KeyboardInterrupt as interruption:
            interruption.add_note("what was indexed is saved; repeat the command to continue")
            raise
    if as_json:
        output.print_json(report_row(report))
    _summarise(report, base, dry_run=chosen.dry_run, as_json=as_json)
    if report.problems or report.upkeep:
        raise click.exceptions.Exit(errors.FAILED)


def _late_note(late: dict[str, Any], total: int) -> str:
    """Say how many bytes token vectors take; a token is taken as four bytes of text."""
    each = late["dimension"] + SCALE_BYTES
    most = output.format_bytes(each * total // 4)
    return f"token vectors of {late['model']}: {each} bytes a token, about {most} for all files"


def _watch(base: "KnowledgeBase", paths: list[str], chosen: Any) -> None:
    """Watch until interrupted, and print a line for each run that changed something."""
    from opengte.search.maintenance.watch import Watcher

    def told(report: "IngestReport") -> None:
        _summarise(report, base, dry_run=False, as_json=False)

    if chosen.dry_run:
        raise click.UsageError("--watch changes the index; give it without --dry-run.")
    click.echo(f"watching {', '.join(paths)}; Ctrl-C ends it", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        Watcher(base, paths, chosen, told).run()


def _run_options(values: dict[str, Any]) -> Any:
    from opengte.search.ingest.pipeline import IngestOptions
    from opengte.search.parse.base import ParseLimits, RowFields
    from opengte.search.parse.pdf.ocr import installed_languages, missing_languages

    fields = RowFields(
        tuple(values.pop("text_field")), values.pop("title_field"), values.pop("id_field")
    )
    most, languages = values.pop("max_bytes"), values.pop("ocr")
    if missing := missing_languages(languages):
        raise InputError(
            f"--ocr is {languages!r}, but Tesseract has no data for `{missing[0]}`: "
            f"expected auto, off, or some of {', '.join(installed_languages()) or '(none)'}"
        )
    limits = ParseLimits(file_bytes=most or ParseLimits.file_bytes, ocr=languages)
    flags = {name: values.pop(name) for name in ("dry_run", "keep", "retry", "allow_empty", "name")}
    return IngestOptions(limits=limits, fields=fields, **flags)


def _opened(
    place: str, options: ModelOptions, values: dict[str, Any], *, dry_run: bool
) -> "KnowledgeBase":
    """Open an index, or create it unless this is a dry run."""
    from opengte.search.index import index_exists
    from opengte.search.ingest.windows import SPAN_TOKENS
    from opengte.search.kb import KnowledgeBase

    given = {name: value for name, value in values.items() if value is not None}
    if index_exists(place) and _is_there(place):
        base = KnowledgeBase.open(place, load=encoder_loader(options))
        _check_settings(base, given)
        return base
    if dry_run:
        return _nothing(place, options)
    return KnowledgeBase.create(
        place,
        options.load_encoder(),
        passages=given.get("passages", "auto"),
        span_tokens=given.get("passage_tokens", SPAN_TOKENS),
        window_tokens=given.get("window_tokens"),
        first_pass=given.get("first_pass"),
        language=_language(given.get("language", "English")),
        instruction=given.get("instruction"),
        late=_load_late(given["late"], options) if "late" in given else None,
    )


def _load_late(name: str, options: ModelOptions) -> "LateInteraction":
    import opengte

    return opengte.LateInteraction.load(
        name, engine=options.engine, threads=options.threads, offline=options.offline
    )


def _is_there(place: str) -> bool:
    """Return whether there is a commit; a run that was killed before it begins anew."""
    from opengte.search.stores.open import open_store

    try:
        return open_store(place).settings() is not None
    except Exception:  # damaged: opening it says how
        return True


def _nothing(place: str, options: ModelOptions) -> "KnowledgeBase":
    """Return an empty index in memory, for a dry run to compare with."""
    from opengte import checkpoint
    from opengte.search.index import Index
    from opengte.search.kb import KnowledgeBase
    from opengte.search.model_identity import ModelIdentity
    from opengte.search.stores.memory import MemoryStore

    card = checkpoint.read_checkpoint(options.name, offline=options.offline).card
    settings = {"model": ModelIdentity.of(card, None).settings()}
    return KnowledgeBase(Index(place, MemoryStore(), settings))


def _language(name: str) -> str | None:
    return None if name.lower() == "none" else name


def _check_settings(base: "KnowledgeBase", given: dict[str, Any]) -> None:
    """Raise InputError for settings that differ from those of the index."""
    names = {"passage_tokens": "span_tokens"}
    late = (base.settings.get("late") or {}).get("model")
    there = {**base.settings, "instruction": base.identity.instruction, "late": late}
    for name, value in given.items():
        value = _language(value) if name == "language" else value
        kept = there.get(names.get(name, name))
        if value != kept and not (name == "passages" and value == "auto"):
            option = "--" + name.replace("_", "-")
            raise InputError(
                f"{option} is {value!r}, but the index `{base.place}` was created with {kept!r}: "
                "omit it, or create a new index"
            )


def report_row(report: "IngestReport") -> dict[str, Any]:
    """Return what `--json` prints of a run."""
    return asdict(report)


def _summarise(
    report: "IngestReport", base: "KnowledgeBase", *, dry_run: bool, as_json: bool
) -> None:
    """Print counts, errors, skipped files and warnings on stderr."""
    from opengte.search.parse.walk import HIDDEN, TOOLS

    if not as_json:
        skipped = [one for one in report.skipped if one[1] not in (HIDDEN, TOOLS)]
        for kind, rows in (
            ("error", report.problems),
            ("skipped", skipped),
            ("warning", report.warnings),
        ):
            for place, reason in rows[:SHOWN]:
                click.echo(f"{kind}: {place}: {reason}", err=True)
            if len(rows) > SHOWN:
                more = f"{len(rows) - SHOWN:,} more; `gte index status {base.place} --problems`"
                click.echo(f"{kind}: … {more} lists all", err=True)
        for name in report.vanished if dry_run else ():
            click.echo(f"would remove: {name}")
    would = "would be " if dry_run else ""
    counts = [f"{report.new:,} {would}new", f"{report.changed:,} {would}changed"]
    counts += [f"{report.unchanged:,} unchanged", f"{report.removed:,} {would}removed"]
    engine = f" {engine_summary(base.encoder)}" if report.embedded else ""
    parts = [f"{report.files:,} files: {', '.join(counts)}{engine}"]
    parts += [f"words of {report.renewed:,} renewed"] * bool(report.renewed)
    parts += [f"{report.truncated:,} truncated"] * bool(report.truncated)
    parts += _skipped(report)
    parts += [f"{len(report.warnings):,} with warnings"] * bool(report.warnings)
    parts += [f"{len(report.problems):,} failed"] * bool(report.problems)
    parts += [f"maintenance failed: {reason}" for reason in report.upkeep]
    click.echo("; ".join(parts), err=True)
    if report.skipped_files > report.files:
        click.echo(
            f"warning: {report.skipped_files:,} files were skipped and only {report.files:,} read; "
            f"`gte index status {base.place} --problems` lists them by reason",
            err=True,
        )


def _skipped(report: "IngestReport") -> list[str]:
    """Return how much was skipped for each of the most frequent reasons."""
    counts = Counter(reason for _, reason in report.skipped).most_common()
    parts = [f"{count:,} skipped ({reason})" for reason, count in counts[:REASONS]]
    others = sum(count for _, count in counts[REASONS:])
    return parts + [f"{others:,} skipped for other reasons"] * bool(others)
