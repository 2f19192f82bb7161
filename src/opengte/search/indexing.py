"""Files into a store: only what is new or changed is embedded, only what is gone is removed.

A run works in batches. A batch of documents is one commit; files are noted as done only after the
commit of their last document. Killed at any point, the next run finds what was committed and goes
on with the rest.
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from urllib.parse import quote

from opengte.search import walk
from opengte.search.minhash import signature
from opengte.search.parse.base import Limits, Parsed, Problem, RowFields, Scalar
from opengte.search.parse.kinds import CHANGED, STREAMED, kind_of
from opengte.search.parse.process import Parser
from opengte.search.stores.base import Known, Source, Store, StoredDocument, StoredWindow
from opengte.search.vectors import Embedder

BATCH_DOCUMENTS = 4096
BATCH_CHARACTERS = 2**14, 2**17, 2**22  # of a commit: least, first, most
COMMIT_SECONDS = 10.0  # between commits: so much work a killed run loses at most, roughly
CHUNK = 2**20
MOST_NOTES = 20  # problems and warnings kept for one file


@dataclass
class Report:
    """What a run did, or with dry_run would do. Counts are documents, but for files and left_out.

    left_out counts files by the reason for which nobody expected text of them; problems are
    (place, reason) of what should have given text, warnings of text that is doubtful.
    """

    files: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    embedded: int = 0  # of new and changed; the others' vectors were there already
    empty: int = 0
    truncated: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)  # files whose documents were removed
    upkeep: list[str] = field(default_factory=list)  # what the store could not tidy up


@dataclass(frozen=True)
class Document:
    """A document on its way into the index; source is its file, or what stands for it."""

    id: str
    source: str
    parsed: Parsed


@dataclass(frozen=True)
class Options:
    """How a run treats files."""

    dry_run: bool = False
    keep: bool = False  # documents of files that are gone
    retry: bool = False  # files that failed before and did not change
    limits: Limits = Limits()
    fields: RowFields = RowFields()


Load = Callable[[], Embedder]
Notify = Callable[[str, int], None]  # path, bytes: a file is done


def run(
    store: Store,
    embedder: Load | None,
    paths: Sequence[str],
    options: Options,
    notify: Notify = lambda path, size: None,
) -> Report:
    """Bring the documents of files and folders up to date; embedder is None for a dry run.

    The embedder is asked for when the first document needs it.
    """
    report, scopes = Report(), [walk.identifier(os.path.abspath(path)) for path in paths]
    known = {source.id: source for source in store.sources() if walk.inside(source.id, scopes)}
    batch = Batch(store, embedder, report)
    with Parser(options.limits, options.fields) as parser:
        seen, blind = _files(paths, known, parser, batch, options, notify)
        batch.flush()
    if not options.keep:
        gone = [name for name in known if name not in seen and not walk.inside(name, blind)]
        _remove(store, gone, report, dry_run=options.dry_run)
    if not options.dry_run:
        report.upkeep = list(store.optimize())
    return report


def add(store: Store, embedder: Load, documents: Iterable[Document]) -> Report:
    """Bring documents up to date that are in no file."""
    report = Report()
    batch = Batch(store, embedder, report)
    for document in documents:
        batch.take(document)
    batch.flush()
    report.upkeep = list(store.optimize())
    return report


def _files(
    paths: Sequence[str],
    known: dict[str, Source],
    parser: Parser,
    batch: "Batch",
    options: Options,
    notify: Notify,
) -> tuple[set[str], list[str]]:
    """Read every file that is new or changed; return those seen, and folders not looked into."""
    seen: set[str] = set()
    blind: list[str] = []
    for item in walk.walk(paths):
        name = walk.identifier(item.path)
        if isinstance(item, walk.Passed):
            _passed(item, name, blind, batch.report)
            continue
        kind = kind_of(item.path) or ("text" if item.named else None)
        if kind is None:
            batch.report.left_out["not a known kind of text"] += 1
        elif name not in seen:
            seen.add(name)
            size = _file(item.path, name, kind, known.get(name), parser, batch, options)
            notify(item.path, size)
    return seen, blind


def _passed(item: walk.Passed, name: str, blind: list[str], report: Report) -> None:
    if item.failed:
        report.problems.append((name, item.reason))
        blind.append(name)
    else:
        report.left_out[item.reason] += 1


def _file(
    path: str,
    name: str,
    kind: str,
    before: Source | None,
    parser: Parser,
    batch: "Batch",
    options: Options,
) -> int:
    """Read one file if it changed; return its size."""
    report = batch.report
    report.files += 1
    try:
        size, digest = _digest(path, kind, options)
    except OSError as error:
        report.problems.append((name, error.strerror or str(error)))
        return 0
    if before and before.digest == digest and not (options.retry and before.problems):
        report.unchanged += before.documents
        report.problems += [(name, reason) for reason in before.problems]
        report.warnings += [(name, reason) for reason in before.warnings]
        return size
    batch.begin(name)
    for item in parser.parse(path, kind):
        match item:
            case Parsed():
                batch.take(_document(path, name, kind, item), in_file=True)
            case Problem():
                batch.problem(name, item)
            case str(parsed):
                whole = kind in STREAMED or digest.startswith(parsed)
                batch.end(name, digest if whole else "", before)
    return size


def _digest(path: str, kind: str, options: Options) -> tuple[int, str]:
    """Return a file's size and a hash of its bytes and of how rows of it are read."""
    limit = None if kind in STREAMED else options.limits.file_bytes
    hashed, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    with open(descriptor, "rb") as file:
        whole = os.fstat(descriptor).st_size
        if limit is not None and whole > limit:  # is refused by its size; nobody reads all of it
            return whole, f"size {whole}"
        while chunk := file.read(CHUNK):
            hashed.update(chunk)
            size += len(chunk)
    return size, hashed.hexdigest() + (repr(options.fields) if kind in STREAMED else "")


def _document(path: str, name: str, kind: str, parsed: Parsed) -> Document:
    identity = f"{name}#{quote(parsed.row, safe=' /:@+,;=!?()[]&~')}" if parsed.row else name
    folder, base = os.path.split(name)
    place: dict[str, Scalar] = {"path": name, "folder": folder, "name": base, "format": kind}
    return Document(identity, name, replace(parsed, metadata={**parsed.metadata, **place}))


def _remove(store: Store, gone: list[str], report: Report, *, dry_run: bool) -> None:
    """Remove the documents of files that are not there any more."""
    for name, ids in store.documents_of(gone).items():
        report.removed += len(ids)
        report.vanished.append(name)
        if not dry_run and ids:
            store.delete(ids)
    if not dry_run and gone:
        store.delete_sources(gone)


@dataclass
class _File:
    """A file that is being read: the documents seen in it, and what was wrong."""

    ids: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Batch:
    """Documents that wait for one commit, and files that are done when it is made."""

    def __init__(self, store: Store, embedder: Load | None, report: Report) -> None:
        self.store = store
        self.embedder = embedder
        self.report = report
        self._documents: dict[str, Document] = {}
        self._characters = 0
        self._most = BATCH_CHARACTERS[1]
        self._open: dict[str, _File] = {}
        self._done: list[tuple[Source, set[str], bool]] = []

    def begin(self, name: str) -> None:
        """Open a file."""
        self._open[name] = _File()

    def problem(self, name: str, problem: Problem) -> None:
        """Note what a file did not give."""
        place = f"{name}:{problem.line}" if problem.line else name
        if not problem.failed:
            self.report.left_out[problem.reason] += 1
            return
        self.report.problems.append((place, problem.reason))
        kept = self._open[name].problems
        if len(kept) < MOST_NOTES:
            kept.append(
                f"line {problem.line}: {problem.reason}" if problem.line else problem.reason
            )

    def take(self, document: Document, *, in_file: bool = False) -> None:
        """Add a document; one that has no text is counted and left."""
        if in_file:
            document = self._entered(document)
        if not document.parsed.text.strip():
            self.report.empty += 1
            return
        self._documents[document.id] = document
        self._characters += len(document.parsed.text)
        full = len(self._documents) >= BATCH_DOCUMENTS or self._characters >= self._most
        if full:
            self.flush()

    def _entered(self, document: Document) -> Document:
        """Note a document of an open file; a second one of the same id gets one of its own."""
        file = self._open[document.source]
        for warning in document.parsed.warnings:
            self.report.warnings.append((document.id, warning))
            if len(file.warnings) < MOST_NOTES:
                file.warnings.append(warning)
        number = 2
        identity = document.id
        while identity in file.ids:
            identity = f"{document.id}~{number}"
            number += 1
        if identity != document.id:
            self.problem(document.source, Problem("its id is not the first", document.parsed.line))
            document = replace(document, id=identity)
        if document.parsed.text.strip():
            file.ids.add(identity)
        return document

    def end(self, name: str, digest: str, before: Source | None) -> None:
        """Close a file; it counts as done after the next commit."""
        file = self._open.pop(name)
        changed = any(reason.startswith(CHANGED) for reason in file.problems)
        failed = bool(file.problems) and not file.ids
        source = Source(
            name,
            "" if changed else digest,
            before.documents if failed and before else len(file.ids),
            tuple(file.problems),
            tuple(dict.fromkeys(file.warnings)),
        )
        complete = not failed and not changed  # else what is gone from it cannot be told
        self._done.append((source, file.ids, complete))
        if len(self._done) >= BATCH_DOCUMENTS:
            self.flush()

    def flush(self) -> None:
        """Commit what waits."""
        documents, characters = list(self._documents.values()), self._characters
        self._documents, self._characters = {}, 0
        start = time.perf_counter()
        if documents:
            self._commit(documents)
        rate = characters / (time.perf_counter() - start)
        least, _, most = BATCH_CHARACTERS
        self._most = int(min(most, max(least, rate * COMMIT_SECONDS)))
        done, self._done = self._done, []
        held = self.store.documents_of([source.id for source, _, complete in done if complete])
        for source, ids, complete in done:
            gone = [name for name in held.get(source.id, ()) if complete and name not in ids]
            self.report.removed += len(gone)
            if self.embedder is not None and gone:
                self.store.delete(gone)
        if self.embedder is not None:
            self.store.put_sources([source for source, _, _ in done])

    def _commit(self, documents: list[Document]) -> None:
        known = self.store.known([document.id for document in documents])
        wanted = []
        for document in documents:
            made, there = hashes(document), known.get(document.id)
            if there == made:
                self.report.unchanged += 1
                continue
            self.report.new += there is None
            self.report.changed += there is not None
            wanted.append((document, made))
        if self.embedder is not None and wanted:
            self.store.put(self._stored(wanted))

    def _stored(self, wanted: list[tuple[Document, Known]]) -> list[StoredDocument]:
        """Return documents with vectors, computed only where no document has the same text."""
        there = self.store.with_content([made.content for _, made in wanted])
        fresh = {made.content: document for document, made in wanted if made.content not in there}
        parts = [(one.parsed.title, one.parsed.text, one.parsed.sections) for one in fresh.values()]
        self.report.embedded += len(parts)
        made_of = self.embedder().embed(parts) if parts and self.embedder else ()
        computed = dict(zip(fresh, made_of, strict=True))
        now = time.time()
        stored = []
        for document, made in wanted:
            if made.content in computed:
                result = computed[made.content]
                windows, truncated = result.windows, result.truncated
            else:
                twin = there[made.content]
                windows, truncated = twin.windows, twin.truncated
            self.report.truncated += truncated
            stored.append(_stored(document, made, windows, truncated, now))
        return stored


def _stored(
    document: Document,
    made: Known,
    windows: tuple[StoredWindow, ...],
    truncated: bool,
    now: float,
) -> StoredDocument:
    parsed = document.parsed
    return StoredDocument(
        id=document.id,
        source=document.source,
        title=parsed.title,
        text=parsed.text,
        content=made.content,
        row=made.row,
        signature=signature(parsed.text),
        windows=windows,
        line=parsed.line,
        truncated=truncated,
        sections=parsed.sections,
        metadata=parsed.metadata,
        warnings=parsed.warnings,
        indexed=now,
    )


def hashes(document: Document) -> Known:
    """Return the hash of what is embedded of a document, and of all else."""
    parsed = document.parsed
    sections = [[one.start, one.title] for one in parsed.sections]
    content = json.dumps([parsed.title, parsed.text, [start for start, _ in sections]])
    row = json.dumps(
        [document.source, parsed.line, sections, dict(parsed.metadata), parsed.warnings]
    )
    return Known(_sha256(content), _sha256(row))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def total_bytes(paths: Sequence[str]) -> Iterator[int]:
    """Yield the size of every file that a run would read."""
    for item in walk.walk(paths):
        if isinstance(item, walk.Found) and (item.named or kind_of(item.path)):
            try:
                yield os.stat(item.path).st_size
            except OSError:
                yield 0


def iso(seconds: float) -> str:
    """Return a time for people and programs."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
