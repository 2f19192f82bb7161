"""Write documents to a store in commits: find what changed, embed it, remove what is gone.

A batch of documents is one commit. A file is recorded as done only after the commit of its last
document, so a run that is killed at any point continues from what was committed.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol
from urllib.parse import quote

from opengte.search.ingest.embedder import DocumentParts, EmbeddedDocument
from opengte.search.minhash import signature
from opengte.search.parse.base import ParsedDocument, ParseProblem, Scalar, Section
from opengte.search.parse.walk import HIDDEN, TOOLS
from opengte.search.stores.base import (
    DocumentHashes,
    SourceFile,
    Store,
    StoredDocument,
    StoredWindow,
)

BATCH_DOCUMENTS = 4096
BATCH_CHARACTERS = 2**14, 2**17, 2**22  # of a commit: least, first, most
COMMIT_SECONDS = 10.0  # between commits: so much work a killed run loses at most, roughly
MAX_NOTES = 20  # problems and warnings kept for one file
MAX_SKIPPED = 1_000  # skipped parts kept for one file
NO_TEXT = "no text"


class DocumentEmbedder(Protocol):
    """Gives the windows of documents: computes them, or has them ready."""

    def embed(self, documents: Sequence[DocumentParts]) -> Iterator[EmbeddedDocument]:
        """Yield the windows of each document (title, text, sections)."""
        ...


EmbedderLoader = Callable[[], DocumentEmbedder]


@dataclass
class IngestReport:
    """What a run did, or what a dry run would do. Counts are documents, except files.

    files were read, skipped_files gave nothing on purpose (hidden ones are not counted). skipped,
    problems and warnings are (place, reason): of files and parts that were not indexed on purpose,
    of those that should have given text, and of text that is doubtful.
    """

    files: int = 0
    skipped_files: int = 0
    new: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    embedded: int = 0  # of new and changed; the others' vectors were there already
    truncated: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)  # files whose documents were removed
    renewed: int = 0  # whose words an earlier version had made
    upkeep: list[str] = field(default_factory=list)  # what the store could not tidy up


@dataclass(frozen=True)
class Document:
    """A document to be indexed; source is its file, or `added:`."""

    id: str
    source: str
    parsed: ParsedDocument


@dataclass
class _File:
    """A file that is being read: the documents seen in it, and what was wrong."""

    ids: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    retry: bool = False


class CommitBatch:
    """Documents that wait for one commit, and files that are done when it is made."""

    def __init__(self, store: Store, embedder: EmbedderLoader | None, report: IngestReport) -> None:
        self.store = store
        self.embedder = embedder
        self.report = report
        self._documents: dict[str, Document] = {}
        self._characters = 0
        self._most = BATCH_CHARACTERS[1]
        self._open: dict[str, _File] = {}
        self._done: list[tuple[SourceFile, set[str], bool]] = []

    def begin(self, name: str) -> None:
        """Open a file."""
        self._open[name] = _File()

    def problem(self, name: str, problem: ParseProblem) -> None:
        """Record a problem of a file."""
        file = self._open[name]
        file.retry = file.retry or problem.retry
        if not problem.failed:
            self._skip_part(name, problem.part, problem.reason)
            return
        place = part_id(name, problem.part)
        self.report.problems.append(
            (f"{place}:{problem.line}" if problem.line else place, problem.reason)
        )
        where = f"line {problem.line}" if problem.line else problem.part
        if len(file.problems) < MAX_NOTES:
            file.problems.append(f"{where}: {problem.reason}" if where else problem.reason)

    def skip(self, name: str, reason: str, before: SourceFile | None, *, failed: bool) -> None:
        """Record a file or folder that is not read."""
        if failed:
            self.report.problems.append((name, reason))
            held = before.documents if before else 0
            source = SourceFile(name, "", held, problems=(reason,))
        else:
            self.report.skipped.append((name, reason))
            self.report.skipped_files += reason not in (HIDDEN, TOOLS)
            source = SourceFile(name, "", 0, skipped=(("", reason),))
        if source != before:
            self._finish(source, set(), not failed and before is not None and before.documents > 0)

    def repeat(self, before: SourceFile) -> None:
        """Record a file that did not change, with what was said of it before."""
        self._count(before)
        self.report.unchanged += before.documents
        self.report.problems += [(before.id, reason) for reason in before.problems]
        self.report.warnings += [(before.id, reason) for reason in before.warnings]
        self.report.skipped += [
            (part_id(before.id, part), reason) for part, reason in before.skipped
        ]

    def _skip_part(self, name: str, part: str, reason: str) -> None:
        self.report.skipped.append((part_id(name, part), reason))
        kept = self._open[name].skipped
        if len(kept) < MAX_SKIPPED:
            kept.append((part, reason))
        elif len(kept) == MAX_SKIPPED:
            kept.append(("", f"more than {MAX_SKIPPED:,} parts of it were skipped"))

    def _count(self, source: SourceFile) -> None:
        self.report.skipped_files += source.is_skipped
        self.report.files += not source.is_skipped

    def take(self, document: Document, *, in_file: bool = False) -> None:
        """Add a document; one that has no text is counted and left."""
        if in_file:
            document = self._entered(document)
        if not document.parsed.text.strip():
            if in_file:
                self._skip_part(document.source, document.parsed.row, NO_TEXT)
            else:
                self.report.skipped.append((document.id, NO_TEXT))
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
            if len(file.warnings) < MAX_NOTES:
                file.warnings.append(warning)
        number = 2
        identity = document.id
        while identity in file.ids:
            identity = f"{document.id}~{number}"
            number += 1
        if identity != document.id:
            self.problem(
                document.source, ParseProblem("its id is not the first", document.parsed.line)
            )
            document = replace(document, id=identity)
        if document.parsed.text.strip():
            file.ids.add(identity)
        return document

    def end(self, name: str, digest: str, before: SourceFile | None) -> None:
        """Close a file; it counts as done after the next commit."""
        file = self._open.pop(name)
        failed = bool(file.problems) and not file.ids
        if not (file.ids or file.problems or file.skipped):
            self.report.skipped.append((name, NO_TEXT))
            file.skipped.append(("", NO_TEXT))
        source = SourceFile(
            name,
            "" if file.retry else digest,
            before.documents if failed and before else len(file.ids),
            tuple(file.problems),
            tuple(dict.fromkeys(file.warnings)),
            tuple(file.skipped),
        )
        self._count(source)
        # otherwise what is gone from the file cannot be told
        self._finish(source, file.ids, complete=not failed and not file.retry)

    def _finish(self, source: SourceFile, ids: set[str], complete: bool) -> None:
        self._done.append((source, ids, complete))
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
            made, there = document_hashes(document), known.get(document.id)
            if there == made:
                self.report.unchanged += 1
                continue
            self.report.new += there is None
            self.report.changed += there is not None
            wanted.append((document, made))
        if self.embedder is not None and wanted:
            self.store.put(self._stored(wanted))

    def _stored(self, wanted: list[tuple[Document, DocumentHashes]]) -> list[StoredDocument]:
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
    made: DocumentHashes,
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


def part_id(name: str, part: str) -> str:
    """Return the id of a part of a file, such as a row or a member; "" is the file itself."""
    return f"{name}#{quote(part, safe=' /:@+,;=!?()[]&~')}" if part else name


def document_hashes(document: Document) -> DocumentHashes:
    """Return the hash of what is embedded of a document, and of all else."""
    parsed = document.parsed
    row = row_hash(document.source, parsed.line, parsed.sections, parsed.metadata, parsed.warnings)
    return DocumentHashes(content_hash(parsed.title, parsed.text, parsed.sections), row)


def content_hash(title: str, text: str, sections: Sequence[Section]) -> str:
    """Return the hash of what is embedded of a document."""
    return _sha256(json.dumps([title, text, [one.start for one in sections]]))


def row_hash(
    source: str,
    line: int | None,
    sections: Sequence[Section],
    metadata: Mapping[str, Scalar],
    warnings: Sequence[str],
) -> str:
    """Return the hash of what is stored of a document, but not embedded."""
    headings = [[one.start, one.title] for one in sections]
    return _sha256(json.dumps([source, line, headings, dict(metadata), list(warnings)]))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
