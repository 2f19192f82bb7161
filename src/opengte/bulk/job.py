"""Rows in, vectors out, a window at a time: memory is bounded, and a killed file run continues.

Windows are cut by count and characters alone. A run that continues therefore cuts the same ones as
a run that was never killed, and writes the same bytes.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from opengte.atomic_files import sync_folder
from opengte.bulk.formats import Block, Format, Layout, json_lines
from opengte.bulk.rows import BadRow, Row
from opengte.errors import InputError
from opengte.journal import Entry, Journal, not_a_journal, open_journal

if TYPE_CHECKING:
    from opengte.types import Embeddings

Items = Iterable[Row | BadRow]
Advance = Callable[[int], None]

CHARACTERS = 2**20  # of text in a window; fewer where a vector a token is kept


@dataclass(frozen=True)
class Progress:
    """How far a run came: input rows seen, what became of them, bytes in each part file."""

    seen: int = 0
    written: int = 0
    failed: int = 0
    truncated: int = 0
    repaired: int = 0
    tokens: int = 0
    offsets: tuple[int, ...] = ()
    complete: bool = False

    def plus(self, other: "Progress") -> "Progress":
        """Add the counts and offsets of one more window."""
        counts = ("seen", "written", "failed", "truncated", "repaired", "tokens")
        sums = {name: getattr(self, name) + getattr(other, name) for name in counts}
        offsets = tuple(a + b for a, b in zip(self.offsets, other.offsets, strict=True))
        return replace(self, offsets=offsets, **sums)


@dataclass(frozen=True, eq=False)
class Work:
    """What to do with every row: how to embed, how large a window is, when to stop."""

    embed: Callable[[list[str]], "Embeddings"]
    window: int
    characters: int
    strict: bool
    source: str  # named before the number of a bad row


@dataclass(frozen=True)
class Target:
    """The file to write, in which format, and what a later run must have in common."""

    output: Path
    format: Format
    layout: Layout
    header: Entry
    resumable: bool
    restart: bool


def to_stream(items: Items, work: Work, layout: Layout, stream: IO[bytes]) -> Progress:
    """Embed rows and write them as JSON Lines, whole windows at a time."""
    total = Progress()
    for blocks, counts in embedded(items, work):
        for block in blocks:
            stream.write(json_lines(block, layout))
        stream.flush()
        total = total.plus(counts)
    return total


def to_file(items: Items, work: Work, target: Target, advance: Advance) -> Progress:
    """Embed rows into a file, continuing where a killed run of the same kind stopped."""
    finals = target.format.files(target.output)
    parts = [path.with_name(path.name + ".part") for path in finals]
    path = target.output.with_name(target.output.name + ".journal")
    with open_journal(path, target.header, restart=target.restart) as journal:
        done = _continued(journal, parts, finals, target)
        if not done.complete:
            with _hopeful(target):
                done = _append(items, work, target, parts, journal, done, advance)
        _finish(parts, finals, target, done)
        path.unlink()
        sync_folder(path.absolute().parent)
    return done


@contextmanager
def _hopeful(target: Target) -> Iterator[None]:
    """Tell whoever stops a run by Ctrl-C that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        if target.resumable:
            interruption.add_note("the same command continues from here")
        raise


def embedded(items: Items, work: Work) -> Iterator[tuple[list[Block], Progress]]:
    """Yield each window's vectors and counts; bad rows are reported on the way."""
    for window in windows(items, work.window, work.characters):
        for item in window:
            if isinstance(item, BadRow):
                _report_bad(work, item)
        rows = [item for item in window if isinstance(item, Row)]
        blocks = list(_attempt(rows, work)) if rows else []
        yield blocks, _counts(len(window), blocks)


def windows(items: Items, size: int, characters: int) -> Iterator[list[Row | BadRow]]:
    """Cut rows into windows of at most so many rows and, one row excepted, characters."""
    window: list[Row | BadRow] = []
    held = 0
    for item in items:
        length = len(item.text) if isinstance(item, Row) else 0
        if window and (len(window) == size or held + length > characters):
            yield window
            window, held = [], 0
        window.append(item)
        held += length
    if window:
        yield window


def _attempt(rows: list[Row], work: Work) -> Iterator[Block]:
    """Embed rows together; where one of them cannot be, find it by halves and keep the others."""
    try:
        vectors = work.embed([row.text for row in rows])
    except InputError as error:
        if len(rows) == 1:
            _report_bad(work, BadRow(rows[0].number, str(error)))
            return
        middle = len(rows) // 2
        yield from _attempt(rows[:middle], work)
        yield from _attempt(rows[middle:], work)
    else:
        yield Block(tuple(row.id for row in rows), vectors)


def _report_bad(work: Work, row: BadRow) -> None:
    message = f"{work.source}:{row.number}: {row.reason}"
    if work.strict:
        raise InputError(message)
    click.echo(f"error: {message}", err=True)


def _counts(seen: int, blocks: list[Block]) -> Progress:
    vectors = [block.embeddings for block in blocks]
    written = sum(len(block.ids) for block in blocks)
    return Progress(
        seen=seen,
        written=written,
        failed=seen - written,
        truncated=sum(len(v.truncated) for v in vectors),
        repaired=sum(len(v.repaired) for v in vectors),
        tokens=sum(int(v.token_counts.sum()) for v in vectors),
    )


def _continued(
    journal: Journal, parts: list[Path], finals: tuple[Path, ...], target: Target
) -> Progress:
    """Return how far an earlier run came, or write the opening of the files and start at zero."""
    done = _last_progress(journal)
    if done is None:
        return _begin(journal, parts, target)
    if not target.resumable:
        click.echo("standard input cannot be continued: starting again", err=True)
        return _begin(journal, parts, target)
    if not _whole(parts, finals, done):
        click.echo("warning: part files are missing or cut short: starting again", err=True)
        return _begin(journal, parts, target)
    click.echo(f"continuing after row {done.seen:,} ({done.failed:,} failed)", err=True)
    return done


def _last_progress(journal: Journal) -> Progress | None:
    """Return the progress of the last complete window, None for a new run."""
    if not journal.entries:
        return None
    last = journal.entries[-1]
    try:
        return Progress(**(last | {"offsets": tuple(last["offsets"])}))
    except (TypeError, KeyError) as error:
        raise not_a_journal(journal.path, error) from error


def _whole(parts: list[Path], finals: tuple[Path, ...], done: Progress) -> bool:
    """Return whether all that the journal counts is there, in part files or already in place."""
    for part, final, offset in zip(parts, finals, done.offsets, strict=True):
        if part.exists():
            if part.stat().st_size < offset:
                return False
        elif not (done.complete and final.exists()):
            return False
    return True


def _begin(journal: Journal, parts: list[Path], target: Target) -> Progress:
    opening = target.format.first(target.layout)
    for part, chunk in zip(parts, opening, strict=True):
        part.write_bytes(chunk)
    done = Progress(offsets=tuple(len(chunk) for chunk in opening))
    journal.record(asdict(done))
    return done


def _append(
    items: Items,
    work: Work,
    target: Target,
    parts: list[Path],
    journal: Journal,
    done: Progress,
    advance: Advance,
) -> Progress:
    """Write the windows that are still missing, and record each once it is on disk."""
    advance(done.seen)
    with _opened_at(parts, done.offsets) as files:
        for blocks, counts in embedded(itertools.islice(items, done.seen, None), work):
            sizes = [0] * len(files)
            for block in blocks:
                for index, chunk in enumerate(target.format.render(block, target.layout)):
                    sizes[index] += files[index].write(chunk)
            _sync(files)
            done = done.plus(replace(counts, offsets=tuple(sizes)))
            journal.record(asdict(done))
            advance(counts.seen)
    done = replace(done, complete=True)
    journal.record(asdict(done))
    return done


@contextmanager
def _opened_at(parts: list[Path], offsets: tuple[int, ...]) -> Iterator[list[IO[bytes]]]:
    """Open part files for appending, without what was written after the last recorded window."""
    with ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context(part.open("r+b")) for part in parts]
        for file, offset in zip(files, offsets, strict=True):
            file.truncate(offset)
            file.seek(offset)
        yield files


def _sync(files: list[IO[bytes]]) -> None:
    for file in files:
        file.flush()
        os.fsync(file.fileno())


def _finish(parts: list[Path], finals: tuple[Path, ...], target: Target, done: Progress) -> None:
    """Put finished files in place; those that a killed run already put there are left alone."""
    for part, final in zip(reversed(parts), reversed(finals), strict=True):
        if part.exists():
            target.format.finish(part, final, target.layout, done.written)
