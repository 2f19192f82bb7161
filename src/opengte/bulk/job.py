"""Embed a file into a file: bounded memory, atomic output, and runs that resume after a crash.

While OUTPUT is being written, its part files and OUTPUT.journal lie beside it. Each window is on
disk before the journal records it; a resumed run cuts the part files back to the last recorded
window and continues there.
"""

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from opengte import __version__
from opengte.atomic_files import sync_folder
from opengte.bulk.formats import output_format
from opengte.bulk.jsonl import render_jsonl
from opengte.bulk.sources import RowSource
from opengte.bulk.types import OUTPUTS, EmbedProgress, InvalidRow, OutputFormat, OutputSchema
from opengte.bulk.windows import CHARACTERS, WindowEmbedder
from opengte.errors import InputError
from opengte.journal import Entry, Journal, not_a_journal, open_journal

if TYPE_CHECKING:
    from opengte.encoder import Encoder
    from opengte.types import Embeddings, Role, TruncationSide

TOKEN_VECTORS = 16  # windows with a vector for each token hold this many times fewer characters
Options = dict[str, Any]  # role, instruction, dimensions, truncation: as `Encoder.embed` takes them


def embed_files(
    encoder: "Encoder",
    source: str | Path | RowSource,
    output: str | Path | IO[bytes],
    *,
    outputs: Sequence[str] = ("dense",),
    role: "Role | None" = None,
    instruction: str | None = None,
    dimensions: int | None = None,
    truncation: "TruncationSide" = "right",
    window: int = 256,
    strict: bool = False,
    restart: bool = False,
    on_progress: Callable[[int], None] | None = None,
    on_invalid: Callable[[InvalidRow], None] | None = None,
    on_resume: Callable[[EmbedProgress], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> EmbedProgress:
    """Embed the rows of a file into another file; repeating an interrupted call resumes it.

    source is a text, JSON Lines or Parquet file, or any `RowSource`. output is a .jsonl, .npy or
    .parquet file, which appears when it is complete, or a binary stream, which gets JSON Lines. A
    .npy file holds float32 (rows, d) and has its ids in .ids.jsonl. outputs are among `dense`,
    `sparse` and `tokens`; role, instruction, dimensions and truncation are those of
    `Encoder.embed`. window is the number of rows that are embedded, written and recorded together;
    strict raises InputError for the first invalid row; restart discards an interrupted run.

    Callbacks: on_progress gets the number of rows done since the last call (first those of the
    interrupted run), on_invalid each row that cannot be embedded, on_resume the counts of the run
    that continues, on_warning the reason why a run cannot continue. Returns the counts of rows
    `seen`, `written`, `failed`, `truncated` and `repaired`, and of `tokens`. Raises InputError for
    a wrong option or file or the output of another run, MissingExtraError and OSError.

    >>> _ = Path("rows.jsonl").write_text('{"id": "a", "text": "Cats sleep."}\\n{"id": "b"}')
    >>> counts = embed_files(encoder, "rows.jsonl", "vectors.npy", on_invalid=print)
    InvalidRow(number=2, reason='has no field `text`, only `id`; choose one with --text-field')
    >>> counts.written, counts.failed, Path("vectors.npy").exists()
    (1, 1, True)
    """
    source = source if isinstance(source, RowSource) else RowSource.from_file(Path(source))
    options: Options = {"role": role, "instruction": instruction}
    options |= {"dimensions": dimensions, "truncation": truncation}
    outputs = _checked(outputs)
    path = Path(output) if isinstance(output, str | Path) else None
    format = None if path is None else _format(source, path, outputs)
    embedder = _embedder(encoder, source, outputs, options, window, strict, on_invalid)
    card = encoder.card
    schema = OutputSchema(dimensions or card.dimension, outputs, card.name, card.fingerprint)
    if path is None or format is None:
        return _to_stream(source, embedder, schema, output, on_progress)  # type: ignore[arg-type]
    header = _header(encoder, source, options, outputs, window) | {"output": path.name}
    run = _FileRun(source, embedder, path, format, schema, on_progress, on_resume, on_warning)
    return run.execute(header, restart=restart)


def _checked(outputs: Sequence[str]) -> tuple[str, ...]:
    """Return the outputs in their fixed order; InputError for an unknown one."""
    if not outputs or not set(outputs) <= set(OUTPUTS):
        raise InputError(f"outputs is {tuple(outputs)!r}, expected some of {', '.join(OUTPUTS)}")
    return tuple(name for name in OUTPUTS if name in outputs)


def _format(source: RowSource, output: Path, outputs: tuple[str, ...]) -> OutputFormat:
    if source.path is not None and output.exists() and output.samefile(source.path):
        raise InputError(f"output is `{output}`, which is the input")
    return output_format(output, outputs)


def _embedder(
    encoder: "Encoder",
    source: RowSource,
    outputs: tuple[str, ...],
    options: Options,
    window: int,
    strict: bool,
    on_invalid: Callable[[InvalidRow], None] | None,
) -> WindowEmbedder:
    def embed(texts: list[str]) -> "Embeddings":
        return encoder.embed(texts, outputs=outputs, progress=False, **options)  # type: ignore[arg-type]

    def report(row: InvalidRow) -> None:
        if strict:
            raise InputError(f"{source.name}:{row.number}: {row.reason}")
        if on_invalid is not None:
            on_invalid(row)

    embed([""])  # so that a wrong option is not reported as the fault of every row
    characters = CHARACTERS // (TOKEN_VECTORS if "tokens" in outputs else 1)
    return WindowEmbedder(embed, report, window, characters)


def _header(
    encoder: "Encoder",
    source: RowSource,
    options: Options,
    outputs: tuple[str, ...],
    window: int,
) -> Entry:
    """Return everything that the bytes of the output depend on."""
    card = encoder.card
    return {
        "opengte": __version__,
        "model": card.fingerprint,
        "engine": card.engine,
        "precision": card.precision,
        "device": card.device,
        "max_length": card.max_length,
        **options,
        "outputs": list(outputs),
        "window": window,
        "input": source.identity,
    }


def _to_stream(
    source: RowSource,
    embedder: WindowEmbedder,
    schema: OutputSchema,
    stream: IO[bytes],
    on_progress: Callable[[int], None] | None,
) -> EmbedProgress:
    """Write JSON Lines, whole windows at a time."""
    total = EmbedProgress()
    for blocks, counts in embedder.run(source.rows()):
        for block in blocks:
            stream.write(render_jsonl(block, schema))
        stream.flush()
        total = total.plus(counts)
        if on_progress is not None:
            on_progress(counts.seen)
    return total


@dataclass(frozen=True, eq=False)
class _FileRun:
    """One run that writes a file, or continues an interrupted run of the same kind."""

    source: RowSource
    embedder: WindowEmbedder
    output: Path
    format: OutputFormat
    schema: OutputSchema
    on_progress: Callable[[int], None] | None
    on_resume: Callable[[EmbedProgress], None] | None
    on_warning: Callable[[str], None] | None

    def execute(self, header: Entry, *, restart: bool) -> EmbedProgress:
        """Write the output and return the counts."""
        path = self.output.with_name(self.output.name + ".journal")
        with open_journal(path, header, restart=restart) as journal:
            done = self._resumed(journal) or self._begin(journal)
            if not done.complete:
                done = self._append(journal, done)
            self._finish(done)
            path.unlink()
            sync_folder(path.absolute().parent)
        return done

    @property
    def finals(self) -> tuple[Path, ...]:
        """Return the files that the run makes."""
        return self.format.files(self.output)

    @property
    def parts(self) -> list[Path]:
        """Return the files that hold them until they are complete."""
        return [path.with_name(path.name + ".part") for path in self.finals]

    def _resumed(self, journal: Journal) -> EmbedProgress | None:
        """Return how far an interrupted run came, or None if there is nothing to continue."""
        if not journal.entries:
            return None
        try:
            last = journal.entries[-1]
            done = EmbedProgress(**(last | {"offsets": tuple(last["offsets"])}))
        except (TypeError, KeyError) as error:
            raise not_a_journal(journal.path, error) from error
        if not self.source.resumable:
            return self._restart("standard input cannot be continued")
        if not self._is_whole(done):
            return self._restart("part files are missing or cut short")
        if self.on_resume is not None:
            self.on_resume(done)
        return done

    def _restart(self, reason: str) -> EmbedProgress | None:
        if self.on_warning is not None:
            self.on_warning(f"{reason}: starting again")
        return None

    def _is_whole(self, done: EmbedProgress) -> bool:
        """Return whether part files or finished files hold everything that the journal counts."""
        for part, final, offset in zip(self.parts, self.finals, done.offsets, strict=True):
            if part.exists():
                if part.stat().st_size < offset:
                    return False
            elif not (done.complete and final.exists()):
                return False
        return True

    def _begin(self, journal: Journal) -> EmbedProgress:
        """Write the opening bytes of the part files."""
        opening = self.format.first(self.schema)
        for part, chunk in zip(self.parts, opening, strict=True):
            part.write_bytes(chunk)
        done = EmbedProgress(offsets=tuple(len(chunk) for chunk in opening))
        journal.record(asdict(done))
        return done

    def _append(self, journal: Journal, done: EmbedProgress) -> EmbedProgress:
        """Write the missing windows, and record each once it is on disk."""
        self._advance(done.seen)
        rows = itertools.islice(self.source.rows(), done.seen, None)
        with _opened_at(self.parts, done.offsets) as files:
            for blocks, counts in self.embedder.run(rows):
                sizes = [0] * len(files)
                for block in blocks:
                    for index, chunk in enumerate(self.format.render(block, self.schema)):
                        sizes[index] += files[index].write(chunk)
                _sync(files)
                done = done.plus(replace(counts, offsets=tuple(sizes)))
                journal.record(asdict(done))
                self._advance(counts.seen)
        done = replace(done, complete=True)
        journal.record(asdict(done))
        return done

    def _advance(self, rows: int) -> None:
        if self.on_progress is not None:
            self.on_progress(rows)

    def _finish(self, done: EmbedProgress) -> None:
        """Move finished files into place, except those that an interrupted run already moved."""
        for part, final in zip(reversed(self.parts), reversed(self.finals), strict=True):
            if part.exists():
                self.format.finish(part, final, self.schema, done.written)


@contextmanager
def _opened_at(parts: list[Path], offsets: tuple[int, ...]) -> Iterator[list[IO[bytes]]]:
    """Open part files for appending, and cut off what follows the last recorded window."""
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
