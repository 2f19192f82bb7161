"""Data of a training stage: hold out rows, mine negatives, tokenise."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.common.progress import progress_bar
from opengte.cli.data.options import ColumnOptions, embed_dense, parse_sources, print_columns
from opengte.cli.train.options import DataOptions

if TYPE_CHECKING:
    from opengte.checkpoint import Checkpoint
    from opengte.data import Dataset
    from opengte.data.examples import Example
    from opengte.data.preparation.source_tokenizer import SourceTokenizer
    from opengte.data.reading.column_mapping import ColumnMapping
    from opengte.data.reading.sources import SourceSpec
    from opengte.train.distributed import World

MOST_HELD_OUT = 500  # rows of a source
TRAIN, DEV, ASKED = "train", "dev", "asked.json"


class StageData:
    """The data of one stage, prepared in a folder by the first process."""

    def __init__(
        self,
        asked: DataOptions,
        columns: ColumnOptions,
        folder: Path,
        encoding: "SourceTokenizer",
        *,
        mine: int = 0,
        miner: "Checkpoint | None" = None,
        mine_dev: bool = False,
    ) -> None:
        self.asked, self.columns, self.folder = asked, columns, folder
        self.encoding, self.mine, self.miner = encoding, mine, miner
        self.mine_dev = mine_dev  # what measures a reranker has negatives, too

    def open(self, world: "World") -> "tuple[Dataset, Dataset | None]":
        """Return the training data, and the evaluation data if there is any."""
        from opengte.data import Dataset

        ready = _ready(self.asked.data)
        if world.is_first:
            self._prepare(ready)
        world.wait()
        fingerprint = self.encoding.tokenizer.fingerprint
        train = Dataset.open(ready or self.folder / TRAIN, fingerprint)
        ready_dev = _ready(self.asked.dev)
        dev = ready_dev or self.folder / DEV
        if ready_dev is None and not dev.exists():
            return train, None
        return train, Dataset.open(dev, fingerprint)

    def _prepare(self, ready: Path | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_same()
        switches = {"instruction": self.asked.instruction}
        if ready is None and not (self.folder / TRAIN / "manifest.json").exists():
            specs = parse_sources(self.asked.data, self.asked.listed, self.columns, switches)
            for spec in specs:
                print_columns(spec)
            held_out = 0.0 if self.asked.dev else self.asked.held_out
            parts = [self._split(spec, held_out) for spec in specs]
            self._write([self._mined(spec) for spec, _ in parts], TRAIN)
            self._write([self._dev(spec, own) for own, spec in parts if spec], DEV)
        if self.asked.dev and _ready(self.asked.dev) is None:
            if not (self.folder / DEV / "manifest.json").exists():
                specs = parse_sources(self.asked.dev, None, self.columns, switches)
                self._write([self._dev(spec, None) for spec in specs], DEV)

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
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        return self._mined(spec, DEV, (path,))

    def _check_same(self) -> None:
        """Raise InputError for a folder whose data was prepared with other options."""
        from opengte.errors import InputError

        asked = json.loads(json.dumps([vars(self.asked), vars(self.columns)], default=str))
        now = {"asked": asked, "mine": self.mine, "tokens": self._tokens()}
        path = self.folder / ASKED
        if path.is_file():
            before = json.loads(path.read_text(encoding="utf-8"))
            if before != now:
                raise InputError(
                    f"`{self.folder}` was prepared with other options: {before}, now {now}. Give "
                    "the same ones, or another --output."
                )
        path.write_text(json.dumps(now) + "\n", encoding="utf-8")

    def _tokens(self) -> list[int]:
        return [self.encoding.query_tokens, self.encoding.document_tokens]

    def _write(self, specs: "Sequence[SourceSpec]", name: str) -> None:
        from opengte.data.preparation.prepare import prepare
        from opengte.errors import InputError

        if not specs:
            return
        with progress_bar("rows") as advance:
            result = prepare(specs, self.folder / name, self.encoding, advance=advance)
        kept = {name: tally.kept for name, tally in result.tallies.items()}
        told = ", ".join(f"{source} {rows:,}" for source, rows in kept.items())
        click.echo(f"{name}: {told} rows", err=True)
        if result.empty:
            raise InputError(
                f"no row of {', '.join(result.empty)} is left; `{self.folder / name}/report.md` "
                "says why"
            )

    def _split(self, spec: "SourceSpec", share: float) -> "tuple[SourceSpec, SourceSpec | None]":
        """Split a source into training and held-out rows; rows of one query stay together."""
        from opengte.data.reading import writer
        from opengte.data.reading.sources import detect_columns

        columns = detect_columns(spec.paths, spec.columns)
        if share == 0 or columns.kind not in ("pairs", "texts"):
            return spec, None
        chosen = _held_out(spec, columns, share)
        if not chosen:
            return spec, None
        paths = {part: self.folder / f"{spec.name}.{part}.jsonl" for part in (TRAIN, DEV)}
        for part, path in paths.items():
            rows = _rows(spec, columns)
            wanted = part == DEV
            writer.write_examples(path, (row for row in rows if (_key(row) in chosen) == wanted), 0)
        plain = replace(spec, columns=type(spec.columns)())
        train, dev = (replace(plain, paths=(path,)) for path in paths.values())
        return train, dev

    def _mined(
        self, spec: "SourceSpec", part: str = TRAIN, corpus: tuple[Path, ...] = ()
    ) -> "SourceSpec":
        """Return a source of pairs with mined negatives, if its rows had none."""
        from opengte.data.mining.files import MiningModels, mine_hard_negatives
        from opengte.data.mining.hard_negatives import MiningSettings
        from opengte.data.reading.sources import detect_columns
        from opengte.encoder import Encoder

        columns = detect_columns(spec.paths, spec.columns)
        if not self.mine or self.miner is None or columns.kind != "pairs" or _has_negatives(spec):
            return spec
        encoder = Encoder.load(self.miner.folder)
        models = MiningModels(
            queries=lambda texts: embed_dense(encoder, texts, "query", spec.instruction),
            documents=lambda texts: embed_dense(encoder, texts, "document", None),
            identity={"model": encoder.card.fingerprint, "instruction": spec.instruction},
        )
        output, settings = (
            self.folder / f"{spec.name}.{part}.mined.jsonl",
            MiningSettings(self.mine),
        )
        with progress_bar("texts") as advance:
            found = mine_hard_negatives(
                [spec], output, models, settings, corpus=corpus, advance=advance
            )
        taken = sum(number * rows for number, rows in found.negatives.items())
        click.echo(f"{spec.name}: {taken:,} negatives for {found.rows:,} rows", err=True)
        return replace(spec, paths=(output,), columns=type(spec.columns)())


def _ready(named: tuple[str, ...]) -> Path | None:
    """Return the folder of prepared data, if exactly one was given."""
    if len(named) == 1 and (Path(named[0]) / "manifest.json").is_file():
        return Path(named[0])
    return None


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


def _has_negatives(spec: "SourceSpec") -> bool:
    from itertools import islice

    from opengte.data.reading.sources import detect_columns

    columns = detect_columns(spec.paths, spec.columns)
    return any(row.negatives for row in islice(_rows(spec, columns), 1000))


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
