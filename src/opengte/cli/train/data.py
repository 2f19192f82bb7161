"""Data of a training stage: hold out rows, mine negatives, tokenise."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.atomic_files import atomic_write
from opengte.cli.common.progress import progress_bar
from opengte.cli.data.options import ColumnOptions, embed_dense, parse_sources, print_columns
from opengte.cli.train.kept import prepared_folder
from opengte.cli.train.options import DataOptions

if TYPE_CHECKING:
    from opengte.checkpoint import Checkpoint
    from opengte.data import Dataset
    from opengte.data.cleaning.report import Tally
    from opengte.data.examples import Example
    from opengte.data.mining.hard_negatives import MiningReport, MiningSettings
    from opengte.data.preparation.source_tokenizer import SourceTokenizer
    from opengte.data.reading.column_mapping import ColumnMapping
    from opengte.data.reading.sources import SourceSpec
    from opengte.train.distributed import World

MOST_HELD_OUT = 500  # rows of a source
TRAIN, DEV = "train", "dev"


class StageData:
    """The data of one stage, prepared in a folder by the first process."""

    def __init__(
        self,
        asked: DataOptions,
        columns: ColumnOptions,
        folder: Path,
        encoding: "SourceTokenizer",
        *,
        mine: "MiningSettings | None" = None,
        miner: "Checkpoint | None" = None,
        mine_dev: bool = False,
        specs: "Sequence[SourceSpec] | None" = None,
    ) -> None:
        self.asked, self.columns, self.folder = asked, columns, folder
        self.encoding, self.mine, self.miner = encoding, mine, miner
        self.mine_dev = mine_dev  # what measures a reranker has negatives, too
        self.specs = specs  # the training data where it is not as given
        self.tallies: dict[str, list[Tally]] = {}

    def open(self, world: "World") -> "tuple[Dataset, Dataset | None]":
        """Return the training data, and the evaluation data if there is any."""
        from opengte.data import Dataset

        ready = prepared_folder(self.asked.data)
        if world.is_first:
            self._prepare(ready)
        world.wait()
        fingerprint = self.encoding.tokenizer.fingerprint
        train = Dataset.open(ready or self.folder / TRAIN, fingerprint)
        ready_dev = prepared_folder(self.asked.dev)
        dev = ready_dev or self.folder / DEV
        if ready_dev is None and not dev.exists():
            return train, None
        return train, Dataset.open(dev, fingerprint)

    def _prepare(self, ready: Path | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        switches = {"instruction": self.asked.instruction}
        if ready is None and not (self.folder / TRAIN / "manifest.json").exists():
            specs = self.specs
            if specs is None:
                specs = parse_sources(self.asked.data, self.asked.listed, self.columns, switches)
            for spec in specs:
                print_columns(spec)
            held_out = 0.0 if self.asked.dev else self.asked.held_out
            parts = [self._split(spec, held_out) for spec in specs]
            self._write([self._mined(spec) for spec, _ in parts], TRAIN)
            self._write([self._dev(spec, own) for own, spec in parts if spec], DEV)
            self._say_dropped()
        if self.asked.dev and prepared_folder(self.asked.dev) is None:
            if not (self.folder / DEV / "manifest.json").exists():
                specs = parse_sources(self.asked.dev, None, self.columns, switches)
                self._write([self._dev(spec, None) for spec in specs], DEV)
                self._say_dropped()

    def _dev(self, spec: "SourceSpec", train: "SourceSpec | None") -> "SourceSpec":
        """Return the evaluation data, with negatives mined from training documents too."""
        from opengte.data.reading.sources import detect_columns

        if not self.mine_dev:
            return spec
        if train is None:
            return self._mined(spec, DEV)
        path = self.folder / f"{train.name}.documents.jsonl"
        rows = _rows(train, detect_columns(train.paths, train.columns))
        lines = (json.dumps({"text": text}) + "\n" for row in rows for text in row.documents)
        with atomic_write(path) as part:
            part.write_text("".join(lines), encoding="utf-8")
        return self._mined(spec, DEV, (path,))

    def _write(self, specs: "Sequence[SourceSpec]", name: str) -> None:
        from opengte.data.preparation.prepare import prepare
        from opengte.errors import InputError

        if not specs:
            return
        with progress_bar("rows") as advance:
            result = prepare(specs, self.folder / name, self.encoding, advance=advance)
        for source, tally in result.tallies.items():
            self.tallies.setdefault(source, []).append(tally)
        kept = {name: tally.kept for name, tally in result.tallies.items()}
        told = ", ".join(f"{source} {rows:,}" for source, rows in kept.items())
        click.echo(f"{name}: {told} rows", err=True)
        if result.empty:
            raise InputError(
                f"no row of {', '.join(result.empty)} is left; `{self.folder / name}/report.md` "
                "says why"
            )

    def _say_dropped(self) -> None:
        """Say which rows of each source's files were dropped."""
        from opengte.data.cleaning.report import dropped_summary

        for source, tallies in self.tallies.items():
            if told := dropped_summary(tallies):
                click.echo(f"{source}: {told}. `{self.folder}/*/report.md` has more.", err=True)
        self.tallies.clear()

    def _split(self, spec: "SourceSpec", share: float) -> "tuple[SourceSpec, SourceSpec | None]":
        """Split a source into training and held-out rows; rows of one query stay together."""
        from opengte.data.reading.sources import detect_columns

        columns = detect_columns(spec.paths, spec.columns)
        if share == 0 or columns.kind not in ("pairs", "texts"):
            return spec, None
        chosen = _held_out(spec, columns, share)
        if not chosen:
            return spec, None
        return self._part(spec, TRAIN, chosen), self._part(spec, DEV, chosen)

    def _part(self, spec: "SourceSpec", part: str, chosen: set[bytes]) -> "SourceSpec":
        """Return a copy of a part of the rows; those that cannot be used are in training."""
        from opengte.data.examples import UnusableRow
        from opengte.data.reading import writer
        from opengte.data.reading.sources import detect_columns, read_examples

        path = self.folder / f"{spec.name}.{part}.jsonl"
        if not path.exists():
            rows = read_examples(spec.paths, detect_columns(spec.paths, spec.columns))
            dev = part == DEV
            writer.write_rows(
                path,
                (r for r in rows if (not isinstance(r, UnusableRow) and _key(r) in chosen) == dev),
            )
        return copied(spec, path)

    def _mined(
        self, spec: "SourceSpec", part: str = TRAIN, corpus: tuple[Path, ...] = ()
    ) -> "SourceSpec":
        """Return a source of pairs with mined negatives for the rows that have none."""
        from opengte.data.reading.sources import detect_columns

        columns = detect_columns(spec.paths, spec.columns)
        if self.mine is None or self.miner is None:
            return spec
        if columns.kind != "pairs" or all(row.negatives for row in _rows(spec, columns)):
            return spec
        output = self.folder / f"{spec.name}.{part}.mined.jsonl"
        if not output.exists():
            self._mine(spec, self.mine, self.miner, output, corpus)
        return copied(spec, output)

    def _mine(
        self,
        spec: "SourceSpec",
        settings: "MiningSettings",
        miner: "Checkpoint",
        output: Path,
        corpus: tuple[Path, ...],
    ) -> None:
        from opengte.data.mining.files import MiningModels, mine_hard_negatives
        from opengte.encoder import Encoder

        encoder = Encoder.load(miner.folder)
        models = MiningModels(
            queries=lambda texts: embed_dense(encoder, texts, "query", spec.instruction),
            documents=lambda texts: embed_dense(encoder, texts, "document", None),
            identity={"model": encoder.card.fingerprint, "instruction": spec.instruction},
        )
        with progress_bar("texts") as advance:
            how: Any = {"corpus": corpus, "copy": True, "advance": advance}
            found = mine_hard_negatives([spec], output, models, settings, **how)
        say_mined(spec.name, found, settings)


def copied(spec: "SourceSpec", path: Path) -> "SourceSpec":
    """Return a source whose rows were copied to a file with their origins."""
    from opengte.data.reading.sources import list_files

    origins = spec.origins or tuple(list_files(spec.paths))
    return replace(spec, paths=(path,), columns=type(spec.columns)(), origins=origins)


def say_mined(name: str, found: "MiningReport", settings: "MiningSettings") -> None:
    """Say how many negatives were found, with a warning if they are few."""
    taken = sum(number * rows for number, rows in found.negatives.items())
    click.echo(f"{name}: {taken:,} negatives for {found.rows:,} rows", err=True)
    if short := found.shortage(settings):
        click.echo(f"warning: {name}: {short}", err=True)


def _rows(spec: "SourceSpec", columns: "ColumnMapping") -> "Iterator[Example]":
    from opengte.data.examples import UnusableRow
    from opengte.data.reading.sources import read_examples

    return (row for row in read_examples(spec.paths, columns) if not isinstance(row, UnusableRow))


def _key(row: "Example") -> bytes:
    from opengte.data.examples import text_hash

    return text_hash(row.query)


def _held_out(spec: "SourceSpec", columns: "ColumnMapping", share: float) -> set[bytes]:
    """Return the hashes of the queries that are held out: those with the smallest."""
    keys = sorted({_key(row) for row in _rows(spec, columns)})
    return set(keys[: min(MOST_HELD_OUT, int(len(keys) * share))])


def build_encoding(
    start: "Checkpoint", query_tokens: int | None, document_tokens: int | None, **changes: Any
) -> "SourceTokenizer":
    """Return how a model's data is tokenised; changes replace fields such as its prompts."""
    from opengte.data.preparation.source_tokenizer import SourceTokenizer

    longest = start.plan.max_positions
    wanted = [n or min(512, start.max_length) for n in (query_tokens, document_tokens)]
    for tokens in wanted:
        if tokens > longest:
            raise click.UsageError(f"The model takes at most {longest} tokens, not {tokens}.")
    return replace(SourceTokenizer(start.tokenizer, start.prompts, *wanted), **changes)
