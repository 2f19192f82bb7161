"""Bring a store up to date with files: embed new and changed documents, remove those gone."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from opengte.errors import InputError
from opengte.search.ingest.embedder import DocumentParts, EmbeddedDocument
from opengte.search.ingest.words import renew_words
from opengte.search.ingest.writer import (
    CommitBatch,
    Document,
    EmbedderLoader,
    IngestReport,
    part_id,
)
from opengte.search.parse import walk
from opengte.search.parse.base import ParsedDocument, ParseLimits, ParseProblem, RowFields, Scalar
from opengte.search.parse.formats import unknown_format
from opengte.search.parse.kinds import STREAMED, format_of
from opengte.search.parse.process import ParserProcess
from opengte.search.roots import Roots
from opengte.search.stores.base import SourceFile, Store
from opengte.text_input import check_ids, check_texts

CHUNK = 2**20  # bytes that are hashed at once
READERS = "-2"  # changes when readers of files do, so that files are read again
ADDED = "added:"  # source of documents that come from no file


@dataclass(frozen=True)
class IngestOptions:
    """How files are read, and what happens to those that are gone or failed before."""

    dry_run: bool = False
    keep: bool = False  # documents of files that are gone
    retry: bool = False  # files that failed or were doubtful before, and did not change
    allow_empty: bool = False  # remove all documents of a folder that is empty or gone
    watched: bool = False  # paths are what changed below folders, not named by a person
    name: str | None = None  # of the one folder that is given, in ids; None: its own
    limits: ParseLimits = ParseLimits()
    fields: RowFields = RowFields()


FileCallback = Callable[[str, int], None]  # path, bytes: a file is done


def index_files(
    store: Store,
    embedder: EmbedderLoader | None,
    paths: Sequence[str],
    options: IngestOptions,
    notify: FileCallback = lambda path, size: None,
    roots: Roots | None = None,
) -> IngestReport:
    """Bring the documents of files and folders up to date; embedder is None for a dry run.

    The embedder is called when the first document needs it. Raises InputError if a path neither
    exists nor ever had documents.
    """
    roots, report = roots or Roots(), IngestReport()
    scopes = [x for one in paths for x in roots.inside(walk.path_to_id(os.path.abspath(one)))]
    sources = {roots.id_of(source.id): source for source in store.sources()}
    known = {name: one for name, one in sources.items() if walk.is_inside(name, scopes)}
    for path in paths:
        scope = roots.inside(walk.path_to_id(os.path.abspath(path)))
        if options.watched or os.path.lexists(path):
            continue
        if not any(walk.is_inside(name, scope) for name in known):
            raise InputError(f"`{path}` does not exist")
    batch = CommitBatch(store, embedder, report)
    with ParserProcess(options.limits, options.fields) as parser:
        seen, blind, files = _files(paths, known, parser, batch, options, notify, roots)
        batch.flush()
    if not options.keep:
        if not options.allow_empty:
            if options.watched:  # what changed may be the last file of a folder
                touched = {name.partition("/")[0] for name in known}
                scopes = [x for x in touched if not walk.has_files(walk.path_of(roots.path_of(x)))]
            blind += _emptied(scopes, known, files, blind, report)
        gone = [name for name in known if name not in seen and not walk.is_inside(name, blind)]
        _remove(store, [known[name].id for name in gone], report, dry_run=options.dry_run)
    _locate(report, roots)
    if not options.dry_run:
        tidy_store(store, report)
    return report


def index_documents(
    store: Store, embedder: EmbedderLoader, documents: Iterable[Document]
) -> IngestReport:
    """Add or replace documents that come from no file."""
    report = IngestReport()
    batch = CommitBatch(store, embedder, report)
    for document in documents:
        batch.take(document)
    batch.flush()
    tidy_store(store, report)
    return report


def index_embedded(
    store: Store, documents: Iterable[tuple[Document, EmbeddedDocument]]
) -> IngestReport:
    """Add or replace documents whose windows are ready; `tidy_store` is to follow the last ones."""
    report, ready = IngestReport(), _ReadyWindows()
    batch = CommitBatch(store, lambda: ready, report)
    for document, windows in documents:
        ready.known[document.parsed.title, document.parsed.text] = windows
        batch.take(document)
    batch.flush()
    report.embedded = 0
    return report


class _ReadyWindows:
    """Gives the windows of documents that were embedded before."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, str], EmbeddedDocument] = {}

    def embed(self, documents: Sequence[DocumentParts]) -> Iterator[EmbeddedDocument]:
        """Yield the windows of documents."""
        for title, text, _ in documents:
            yield self.known[title, text]


def tidy_store(store: Store, report: IngestReport) -> None:
    """Bring words and indexes of a store up to date after documents were written."""
    report.renewed = renew_words(store)
    report.upkeep = list(store.optimize())


def documents_of_texts(
    texts: Iterable[str],
    ids: Iterable[str | int],
    titles: Iterable[str] | None = None,
    metadata: Iterable[Mapping[str, Scalar]] | None = None,
) -> list[Document]:
    """Return documents that come from no file; InputError if lengths differ or an id repeats."""
    texts, ids = check_texts(texts), check_ids(ids)
    all_titles = [""] * len(texts) if titles is None else check_texts(titles, "titles")
    records: list[dict[str, Scalar]] = [{} for _ in texts]
    if metadata is not None:
        records = [_record(one, number) for number, one in enumerate(metadata)]
    if not len(texts) == len(ids) == len(all_titles) == len(records):
        raise InputError(
            f"{len(texts)} texts came with {len(ids)} ids, {len(all_titles)} titles and "
            f"{len(records)} records of metadata: expected as many of each"
        )
    if len(set(ids)) < len(ids):
        raise InputError("ids holds the same id twice; expected one for each text")
    return [
        Document(name, ADDED, ParsedDocument(text, title=title, metadata=record))
        for name, text, title, record in zip(ids, texts, all_titles, records, strict=True)
    ]


def _record(fields: object, number: int) -> dict[str, Scalar]:
    if not isinstance(fields, Mapping):
        raise InputError(
            f"metadata[{number}] is of type {type(fields).__name__}, expected one mapping of "
            "fields for each text, such as {'year': 2024}"
        )
    return dict(fields)


def _files(
    paths: Sequence[str],
    known: dict[str, SourceFile],
    parser: ParserProcess,
    batch: "CommitBatch",
    options: IngestOptions,
    notify: FileCallback,
    roots: Roots,
) -> tuple[set[str], list[str], set[str]]:
    """Read every file that is new or changed.

    Return what was seen, folders that were not looked into, and the files that are there.
    """
    seen: set[str] = set()
    files: set[str] = set()
    blind: list[str] = []
    for item in walk.walk_files(paths, named=not options.watched):
        name = roots.id_of(walk.path_to_id(item.path))
        if isinstance(item, walk.SkippedPath):
            if item.failed:
                blind.append(name)
            if name not in seen:  # a folder that was entered keeps no record
                batch.skip(name, item.reason, known.get(name), failed=item.failed)
        elif name not in seen:
            files.add(name)
            kind = format_of(item.path) or ("text" if item.named else None)
            if kind is None:
                batch.skip(name, unknown_format(name), known.get(name), failed=False)
            else:
                size = _file(item.path, name, kind, known.get(name), parser, batch, options)
                notify(item.path, size)
        seen.add(name)
    return seen, blind, files


def _emptied(
    scopes: Sequence[str],
    known: Mapping[str, SourceFile],
    files: set[str],
    blind: Sequence[str],
    report: IngestReport,
) -> list[str]:
    """Return the folders that had documents and have no file now; each is a problem of the run."""
    found = []
    for scope in dict.fromkeys(scopes):
        had = [known[name] for name in known if walk.is_inside(name, [scope])]
        documents = sum(one.documents for one in had)
        lost = documents and not any(walk.is_inside(name, [scope]) for name in files)
        if lost and not walk.is_inside(scope, blind):
            found.append(scope)
            report.problems.append(
                (
                    scope,
                    f"is empty or gone, and had {documents:,} documents in {len(had):,} files: "
                    "nothing is removed. If that is right: --allow-empty; if the folder was moved: "
                    "gte index move-root",
                )
            )
    return found


def _locate(report: IngestReport, roots: Roots) -> None:
    """Name files by where they are."""
    report.problems = [(roots.path_of(name), reason) for name, reason in report.problems]
    report.skipped = [(roots.path_of(name), reason) for name, reason in report.skipped]
    report.warnings = [(roots.path_of(name), reason) for name, reason in report.warnings]
    report.vanished = [roots.path_of(name) for name in report.vanished]


def _file(
    path: str,
    name: str,
    kind: str,
    before: SourceFile | None,
    parser: ParserProcess,
    batch: "CommitBatch",
    options: IngestOptions,
) -> int:
    """Read one file if it changed; return its size."""
    try:
        size, digest = _digest(path, kind, options)
    except OSError as error:
        batch.skip(name, error.strerror or str(error), before, failed=True)
        return 0
    if (
        before
        and before.digest == digest
        and not (options.retry and (before.problems or before.warnings))
    ):
        batch.repeat(before)
        return size
    batch.begin(name)
    for item in parser.parse(path, kind):
        match item:
            case ParsedDocument():
                batch.take(_document(path, name, kind, item), in_file=True)
            case ParseProblem():
                batch.problem(name, item)
            case str(parsed):
                whole = kind in STREAMED or digest.startswith(parsed)
                batch.end(name, digest if whole else "", before)
    return size


def _digest(path: str, kind: str, options: IngestOptions) -> tuple[int, str]:
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
    how = repr(options.fields) if kind in STREAMED else ""
    return size, hashed.hexdigest() + READERS + how


def _document(path: str, name: str, kind: str, parsed: ParsedDocument) -> Document:
    folder, base = os.path.split(name)
    place: dict[str, Scalar] = {"path": name, "folder": folder, "name": base}
    place["format"] = parsed.format or kind
    if parsed.parent is not None:
        place["parent"] = part_id(name, parsed.parent)
    metadata = {**parsed.metadata, **place}
    return Document(part_id(name, parsed.row), name, replace(parsed, metadata=metadata))


def _remove(store: Store, gone: list[str], report: IngestReport, *, dry_run: bool) -> None:
    """Remove the documents of files that are not there any more."""
    for name, ids in store.documents_of(gone).items():
        report.removed += len(ids)
        report.vanished.append(name)
        if not dry_run and ids:
            store.delete(ids)
    if not dry_run and gone:
        store.delete_sources(gone)


def file_sizes(paths: Sequence[str]) -> Iterator[int]:
    """Yield the size of every file that a run would read."""
    for item in walk.walk_files(paths):
        if isinstance(item, walk.FoundFile) and (item.named or format_of(item.path)):
            try:
                yield os.stat(item.path).st_size
            except OSError:
                yield 0
