"""Many texts at once with their vectors: from an input, or from an index.

Only the vectors and the beginnings of the texts are held in memory.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.atomic_files import atomic_write
from opengte.bulk import InvalidRow, RowSource, TextRow
from opengte.bulk.windows import WindowEmbedder
from opengte.cli.common.inputs import InputOptions, report_invalid
from opengte.cli.common.options import ModelOptions, TextOptions, note_default_instruction
from opengte.cli.common.progress import progress_bar

if TYPE_CHECKING:
    from opengte import Encoder
    from opengte.search.kb import KnowledgeBase
    from opengte.types import Floats

PREVIEW = 1_500  # characters of a text that are held

index_option = click.option(
    "--in", "kb", metavar="KB", help="Read the documents and their vectors from this index."
)


@dataclass
class TextPreviews:
    """Rows in order: ids, line numbers from 1, beginnings; and how many rows failed.

    Texts that cannot be read again, from the command line or a pipe, are held whole.
    """

    ids: list[str | int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    failed: int = 0
    truncated: int = 0
    limit: int | None = PREVIEW

    @classmethod
    def of(cls, source: RowSource) -> "TextPreviews":
        """Return an empty list for the rows of a source."""
        return cls(limit=None if source.path is None else PREVIEW)

    def add(self, row: TextRow) -> None:
        """Append a row."""
        self.ids.append(row.id)
        self.numbers.append(row.number)
        self.texts.append(row.text[: self.limit])

    def select(self, rows: "list[int]") -> None:
        """Keep only these rows."""
        self.ids = [self.ids[row] for row in rows]
        self.numbers = [self.numbers[row] for row in rows]
        self.texts = [self.texts[row] for row in rows]


def check_inputs(inputs: InputOptions, kb: str | None) -> None:
    """Raise UsageError unless there are either texts or an index."""
    if kb is None:
        inputs.check()
    elif inputs.texts or inputs.path is not None:
        raise click.UsageError("Give either texts or --in KB.")


def usable_rows(source: RowSource, previews: TextPreviews) -> Iterator[TextRow]:
    """Yield the usable rows of a source and record them; report and count the others."""
    for row in source.rows():
        if isinstance(row, InvalidRow):
            report_invalid(source, row)
            previews.failed += 1
        else:
            previews.add(row)
            yield row


def embed_inputs(
    inputs: InputOptions, text: TextOptions, options: ModelOptions
) -> "tuple[TextPreviews, Floats, Encoder]":
    """Return the rows of an input with their vectors (n, d), computed a window at a time."""
    import numpy as np

    encoder = options.load_encoder()
    source = inputs.source()
    previews = TextPreviews.of(source)
    numbered = (
        TextRow(row.number, place, row.text)
        for place, row in enumerate(usable_rows(source, previews))
    )
    embedder = WindowEmbedder(
        lambda texts: text.embed(encoder, texts), lambda row: report_invalid(source, row)
    )
    embedder.embed([""])  # so that a wrong option is not reported as the fault of every row
    parts, places = [np.zeros((0, text.dimensions or encoder.card.dimension), np.float32)], []
    with progress_bar(" texts") as advance:
        for blocks, counts in embedder.run(numbered):
            for block in blocks:
                assert block.embeddings.dense is not None
                parts.append(block.embeddings.dense)
                places += list(block.ids)
            previews.truncated += counts.truncated
            advance(counts.seen)
    previews.failed += len(previews.ids) - len(places)
    previews.select([int(place) for place in places])
    note_default_instruction(encoder)
    return previews, np.concatenate(parts), encoder


def load_index_vectors(kb: "KnowledgeBase") -> "tuple[TextPreviews, Floats]":
    """Return the documents of an index, ordered by id, with one vector each (n, d)."""
    import numpy as np

    from opengte.search.stores.listing import list_documents, summarize_documents

    ids = sorted(document.id for document in list_documents(kb.store))
    places = {name: place for place, name in enumerate(ids)}
    vectors = np.zeros((len(ids), kb.settings["dimension"]), np.float32)
    heads: list[str | None] = [None] * len(ids)
    for summary in summarize_documents(kb.store, ids):
        vectors[places[summary.id]] = summary.vector
        heads[places[summary.id]] = summary.head
    present = [place for place, head in enumerate(heads) if head is not None]
    numbers = list(range(1, len(ids) + 1))
    previews = TextPreviews(list(ids), numbers, [head or "" for head in heads])
    previews.select(present)
    return previews, vectors[present]


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write rows as JSON Lines; the file appears when it is complete."""
    with atomic_write(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
