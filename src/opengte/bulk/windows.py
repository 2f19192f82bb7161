"""Embed rows a window at a time, and isolate the rows that cannot be embedded.

Windows are cut by rows and characters alone, so a resumed run cuts the same windows as a run that
was never interrupted, and writes the same bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opengte.bulk.sources import RowIterable
from opengte.bulk.types import EmbeddedRows, EmbedProgress, InvalidRow, TextRow
from opengte.errors import InputError

if TYPE_CHECKING:
    from opengte.types import Embeddings

CHARACTERS = 2**20  # of text in a window


@dataclass(frozen=True, eq=False)
class WindowEmbedder:
    """Embeds windows of at most `window` rows and, one row excepted, `characters` of text.

    `on_invalid` is called with each row that is of no use; it may raise to stop.
    """

    embed: Callable[[list[str]], "Embeddings"]
    on_invalid: Callable[[InvalidRow], None]
    window: int = 256
    characters: int = CHARACTERS

    def run(self, rows: RowIterable) -> Iterator[tuple[list[EmbeddedRows], EmbedProgress]]:
        """Yield each window's vectors and counts."""
        for window in row_windows(rows, self.window, self.characters):
            for row in window:
                if isinstance(row, InvalidRow):
                    self.on_invalid(row)
            texts = [row for row in window if isinstance(row, TextRow)]
            blocks = list(self._embed(texts)) if texts else []
            yield blocks, _counts(len(window), blocks)

    def _embed(self, rows: list[TextRow]) -> Iterator[EmbeddedRows]:
        """Embed rows together; bisect to a row that cannot be embedded, and keep the others."""
        try:
            vectors = self.embed([row.text for row in rows])
        except InputError as error:
            if len(rows) == 1:
                self.on_invalid(InvalidRow(rows[0].number, str(error)))
                return
            middle = len(rows) // 2
            yield from self._embed(rows[:middle])
            yield from self._embed(rows[middle:])
        else:
            yield EmbeddedRows(tuple(row.id for row in rows), vectors)


def row_windows(
    rows: RowIterable, size: int, characters: int
) -> Iterator[list[TextRow | InvalidRow]]:
    """Cut rows into windows of at most `size` rows and, one row excepted, `characters` of text."""
    window: list[TextRow | InvalidRow] = []
    held = 0
    for row in rows:
        length = len(row.text) if isinstance(row, TextRow) else 0
        if window and (len(window) == size or held + length > characters):
            yield window
            window, held = [], 0
        window.append(row)
        held += length
    if window:
        yield window


def _counts(seen: int, blocks: list[EmbeddedRows]) -> EmbedProgress:
    vectors = [block.embeddings for block in blocks]
    written = sum(len(block.ids) for block in blocks)
    return EmbedProgress(
        seen=seen,
        written=written,
        failed=seen - written,
        truncated=sum(len(v.truncated) for v in vectors),
        repaired=sum(len(v.repaired) for v in vectors),
        tokens=sum(int(v.token_counts.sum()) for v in vectors),
    )
