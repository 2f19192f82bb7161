"""Many texts at once, with their vectors: out of a file, or out of an index.

Held are the vectors and the beginnings of the texts, not the texts.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from opengte.bulk import job
from opengte.bulk.rows import BadRow, Row
from opengte.cli.common.inputs import Input
from opengte.cli.common.options import ModelOptions, TextOptions, note_default_instruction
from opengte.cli.common.progress import progress_bar

if TYPE_CHECKING:
    from opengte import Encoder
    from opengte.search.kb import KnowledgeBase
    from opengte.types import Floats

HEAD = 1_500  # characters of a text that are kept
WINDOW = 256  # texts that are embedded together

index_option = click.option(
    "--in", "kb", metavar="KB", help="Take the documents of an index, with the vectors it has."
)


@dataclass
class Gathered:
    """Rows in order: ids, numbers of their lines (from 1), beginnings; how many were of no use.

    Texts that cannot be read again, from the command line or a pipe, are kept whole.
    """

    ids: list[str | int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    failed: int = 0
    truncated: int = 0
    limit: int | None = HEAD

    @classmethod
    def of(cls, source: Input) -> "Gathered":
        """Return what is about to be filled from an input."""
        return cls(limit=None if source.path is None else HEAD)

    def add(self, row: Row) -> None:
        """Take a row."""
        self.ids.append(row.id)
        self.numbers.append(row.number)
        self.heads.append(row.text[: self.limit])

    def only(self, rows: "list[int]") -> None:
        """Keep these rows."""
        self.ids = [self.ids[row] for row in rows]
        self.numbers = [self.numbers[row] for row in rows]
        self.heads = [self.heads[row] for row in rows]


def check(source: Input, kb: str | None) -> None:
    """Refuse texts together with an index, and none of both."""
    if kb is None:
        source.check()
    elif source.texts or source.path is not None:
        raise click.UsageError("Give either texts or --in KB.")


def rows_of(source: Input, found: Gathered) -> Iterator[Row]:
    """Yield the rows of an input and note them; report those that are of no use."""
    for row in source.rows():
        if isinstance(row, BadRow):
            click.echo(f"error: {source.name}:{row.number}: {row.reason}", err=True)
            found.failed += 1
        else:
            found.add(row)
            yield row


def embedded(
    source: Input, text: TextOptions, options: ModelOptions
) -> "tuple[Gathered, Floats, Encoder]":
    """Return the rows of an input with their vectors (n, d), computed a window at a time."""
    import numpy as np

    encoder = options.load_encoder()
    found = Gathered.of(source)
    numbered = (
        Row(row.number, place, row.text) for place, row in enumerate(rows_of(source, found))
    )
    work = job.Work(
        embed=lambda texts: text.embed(encoder, texts),
        window=WINDOW,
        characters=job.CHARACTERS,
        strict=False,
        source=source.name,
    )
    work.embed([""])  # so that a wrong option is not taken for the fault of every row
    parts, places = [np.zeros((0, text.dimensions or encoder.card.dimension), np.float32)], []
    with progress_bar(" texts") as advance:
        for blocks, counts in job.embedded(numbered, work):
            for block in blocks:
                assert block.embeddings.dense is not None
                parts.append(block.embeddings.dense)
                places += list(block.ids)
            found.truncated += counts.truncated
            advance(counts.seen)
    found.failed += len(found.ids) - len(places)
    found.only([int(place) for place in places])
    note_default_instruction(encoder)
    return found, np.concatenate(parts), encoder


def portrayed(kb: "KnowledgeBase") -> "tuple[Gathered, Floats]":
    """Return the documents of an index, by id, with a vector (n, d) each."""
    import numpy as np

    from opengte.search.stores.listing import outlines, portraits

    names = sorted(one.id for one in outlines(kb.store))
    places = {name: place for place, name in enumerate(names)}
    vectors = np.zeros((len(names), kb.settings["dimension"]), np.float32)
    heads: list[str | None] = [None] * len(names)
    for one in portraits(kb.store, names):
        vectors[places[one.id]] = one.vector
        heads[places[one.id]] = one.head
    there = [place for place, head in enumerate(heads) if head is not None]
    found = Gathered(list(names), list(range(1, len(names) + 1)), [head or "" for head in heads])
    found.only(there)
    return found, vectors[there]


def written(path: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines, all of them or none."""
    import json
    import os

    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
