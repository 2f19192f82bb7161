"""`KnowledgeBase`: index documents once, search them by meaning and by words, and explain results.

It is a handle: it follows its index when a migration switches to another model.
"""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from opengte.search import minhash, segmentation
from opengte.search.calibration import confidence
from opengte.search.filter_check import check_filter
from opengte.search.filters import Filter
from opengte.search.handle import IndexHandle
from opengte.search.index import Index, LoadEncoder
from opengte.search.ingest import pipeline
from opengte.search.ingest.embedder import PassageMode
from opengte.search.ingest.pipeline import FileCallback
from opengte.search.ingest.windows import SPAN_TOKENS
from opengte.search.ingest.writer import IngestReport
from opengte.search.parse import walk
from opengte.search.parse.base import Scalar
from opengte.search.retrieval.search import SearchOptions, SearchResult
from opengte.search.roots import Root
from opengte.text_input import check_ids

if TYPE_CHECKING:
    from opengte.encoder import Encoder, LateInteraction, Reranker
    from opengte.search.calibration.questions import Question
    from opengte.search.maintenance.check import CheckReport
    from opengte.search.maintenance.explain import Explanation
    from opengte.search.maintenance.migrate import Migration
    from opengte.search.maintenance.status import FileProblem, IndexStatus

T = TypeVar("T")


class KnowledgeBase(IndexHandle):
    """An index of documents in a folder, a bucket or a database. Safe to use from several threads.

    `create` makes an index, `open` opens one.

    >>> kb = KnowledgeBase.create("kb", encoder)
    >>> kb.index(["notes"]).new
    3
    >>> kb.search("how do I undo a commit?").hits[0].title
    'Git'
    """

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: "Encoder",
        *,
        passages: PassageMode = "auto",
        span_tokens: int = SPAN_TOKENS,
        window_tokens: int | None = None,
        first_pass: int | None = None,
        language: str | None = "English",
        instruction: str | None = None,
        late: "LateInteraction | None" = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> "KnowledgeBase":
        """Make an empty index.

        Args:
            path: A new or empty folder, or a URI (`s3://`, `postgresql://`, `qdrant://`).
            encoder: The model of all documents and queries.
            passages: How passages get vectors: `late` (late chunking, from the token states of the
                window), `classic` (each is embedded again), `none`; `auto`: late where the model
                pools by a mean, else classic.
            span_tokens: Longest passage.
            window_tokens: Longest text that the model reads at once; None: all it takes.
            first_pass: Dimensions that find candidates (Matryoshka models); all score them.
            language: Its word endings are ignored by BM25; None: words match as they are.
            instruction: Task instruction of every query.
            late: A model whose token vectors of every passage are kept (int8, its width + 4 bytes a
                token); MaxSim rescores what the other legs find. LanceDB only.
            storage_options: Credentials and settings of the bucket or server.

        Raises:
            InputError: The place is taken, or the model cannot do what the options ask for.

        >>> KnowledgeBase.create("new", encoder, language=None).store.count()
        0
        """
        settings = {
            "first_pass": first_pass,
            "passages": passages,
            "span_tokens": span_tokens,
            "window_tokens": window_tokens,
            "language": language,
        }
        return cls(Index.create(path, encoder, settings, instruction, storage_options, late))

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: "Encoder | None" = None,
        *,
        load: LoadEncoder | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> "KnowledgeBase":
        """Open an index.

        Without an encoder, load is called with the `ModelIdentity` when the model is first needed.
        Raises InputError if there is no index, or the encoder is not the model that made it.

        >>> KnowledgeBase.open(kb.place, encoder).store.count()
        3
        """
        return cls(Index.open(path, encoder, load=load, storage_options=storage_options))

    @classmethod
    def restore(
        cls,
        file: str | Path,
        path: str | Path,
        *,
        storage_options: Mapping[str, str] | None = None,
    ) -> "KnowledgeBase":
        """Make an index from a Parquet file that `export` wrote; InputError if it is another file.

        >>> kb.export("kb.parquet")
        3
        >>> KnowledgeBase.restore("kb.parquet", "copy").store.count()
        3
        """
        from opengte.search.maintenance import parquet

        return cls(parquet.import_index(file, path, storage_options))

    def limited(self, where: Mapping[str, Any] | Filter | None) -> "KnowledgeBase":
        """Return a knowledge base in which only the documents that match a filter exist.

        Changing it raises AccessError. None returns this object itself.

        >>> kb.limited({"name": "git.md"}).store.count()
        1
        """
        index = self.current
        condition = index.filter(where)
        return self if condition is None else KnowledgeBase(index.limited(condition))

    # --- documents -------------------------------------------------------------------------------

    def index(
        self,
        paths: Iterable[str | Path],
        options: pipeline.IngestOptions | None = None,
        notify: FileCallback = lambda path, size: None,
    ) -> IngestReport:
        """Bring the index up to date with files and folders.

        Only new and changed documents are embedded; those whose files are gone are removed, but not
        all those of a folder that is empty or gone. A run that was stopped continues where it was.
        notify is called with the path and the bytes of each file that is done. Raises InputError if
        a path does not exist and never had documents, or looks like a folder that was moved; a file
        that cannot be read is in the report's `problems`.

        >>> _ = Path("notes/tax.md").write_text("Taxes are due in May.")
        >>> report = kb.index(["notes/tax.md"])
        >>> report.new, report.embedded, report.problems
        (1, 1, [])
        """
        chosen = options or pipeline.IngestOptions()
        places = [os.fspath(path) for path in paths]

        def work(index: Index) -> IngestReport:
            from opengte.search.maintenance.relocate import enter_roots

            if (check_sizes := getattr(index.store, "check_sizes", None)) is not None:
                check_sizes(index.place)
            roots = enter_roots(index, places, chosen.name, dry_run=chosen.dry_run)
            embedder = None if chosen.dry_run else lambda: index.embedder
            return pipeline.index_files(index.store, embedder, places, chosen, notify, roots)

        return self._write(work)

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str | int],
        *,
        titles: Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Scalar]] | None = None,
    ) -> IngestReport:
        """Add texts under ids of your own; a document that has the id already is replaced.

        titles are embedded with the texts; metadata are fields that filters can use. Raises
        InputError if the numbers of texts, ids, titles and metadata differ, or an id repeats.

        >>> kb.add(["Taxes are due in May."], ["tax"], metadata=[{"year": 2024}]).new
        1
        >>> kb.search("taxes", where={"year": {"$gte": 2020}}).hits[0].id
        'tax'
        """
        documents = pipeline.documents_of_texts(texts, ids, titles, metadata)
        return self._write(
            lambda index: pipeline.index_documents(index.store, lambda: index.embedder, documents)
        )

    def delete(self, ids: Iterable[str | int]) -> None:
        """Remove documents by id; ids that do not exist are ignored.

        >>> kb.delete(["tax"])
        >>> kb.store.count()
        3
        """
        names = check_ids(ids, ordered=False)

        def work(index: Index) -> IngestReport:
            index.store.delete(names)
            return IngestReport()

        self._write(work)

    def duplicates(self) -> list[list[str]]:
        """Return groups of ids of documents whose texts are nearly the same, by MinHash.

        >>> text = "A kitten is a young cat and sleeps all day."
        >>> _ = kb.add([text, text + "!"], ["a", "b"])
        >>> kb.duplicates()
        [['a', 'b']]
        """
        store = self.current.store
        return minhash.near_duplicate_groups({one.id: one.signature for one in store.scan()})

    def problems(self) -> "Iterator[FileProblem]":
        """Yield (place, reason, kind) of files and parts that failed, were skipped or are doubtful.

        >>> list(kb.problems())
        []
        """
        from opengte.search.maintenance.status import file_problems

        roots = self.current.roots
        found = file_problems(self.current.store)
        return (one._replace(place=roots.path_of(one.place)) for one in found)

    def locate(self, source: str) -> str:
        """Return where the file of a document is now; source is that of a hit or a document.

        >>> kb.search("undo a commit").hits[0].source
        'notes/git.md'
        >>> os.path.isabs(kb.locate("notes/git.md"))
        True
        """
        return walk.path_of(self.current.roots.path_of(source))

    @property
    def roots(self) -> tuple[Root, ...]:
        """The folders that documents come from: name, path, and where each was before.

        >>> [root.name for root in kb.roots]
        ['notes']
        """
        return self.current.roots.roots

    def move_root(self, root: str, path: str | Path, *, force: bool = False) -> Root:
        """Change where a folder of the collection is; nothing is read or embedded again.

        root is its name, or its former path. Raises InputError if there is no such root, or the
        folder at path has none of its files (force: it may).

        >>> _ = Path("notes").rename("papers")
        >>> kb.move_root("notes", "papers").name, kb.index(["papers"]).unchanged
        ('notes', 3)
        """
        from opengte.search.maintenance.relocate import move_root

        return move_root(self.latest(), root, os.fspath(path), force=force)

    def remove_root(self, root: str) -> int:
        """Remove a folder of the collection with all its documents; return how many.

        >>> kb.remove_root("notes"), kb.store.count()
        (3, 0)
        """
        from opengte.search.maintenance.relocate import remove_root

        return remove_root(self.latest(), root)[1]

    def export(self, path: str | Path) -> int:
        """Write texts, vectors, metadata and settings to a Parquet file; return the documents.

        >>> kb.export("kb.parquet")
        3
        """
        from opengte.search.maintenance import parquet

        return parquet.export_index(self.current, path)

    # --- search ----------------------------------------------------------------------------------

    def search(
        self,
        text: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | Filter | None = None,
        reranker: "Reranker | LateInteraction | None" = None,
        min_confidence: "confidence.MinConfidence" = None,
        **options: Any,
    ) -> SearchResult:
        """Return the k documents that answer a query best.

        Three retrievers, called legs, search at the same time: dense vectors, BM25 and, where the
        model has them, learned sparse weights. Their rankings are fused.

        Args:
            text: The query. InputError if it has no words.
            k: The number of hits.
            where: A filter on metadata, such as `{"year": {"$gte": 2020}, "lang": "de"}`.
            reranker: Orders the best candidates by reading their passages.
            min_confidence: Return no hits if the answer is less sure than this, 0 to 1; `auto`: the
                threshold that calibration chose. Needs a calibrated index.
            options: Other fields of `SearchOptions`: `legs`, `fusion`, `exact`, `diversity`, ...

        >>> result = kb.search("parental leave", k=1, where={"folder": {"$contains": "notes"}})
        >>> result.hits[0].title, sorted(result.candidates)
        ('Parental leave', ['dense', 'lexical'])
        """

        def work(index: Index) -> SearchResult:
            condition = index.filter(where)
            check_filter(index.store, condition)
            chosen = SearchOptions(k=k, where=condition, **options)
            start = time.perf_counter()
            query = index.encode_query(text)
            embedded = time.perf_counter()
            calibration = confidence.calibration_of(index.settings)
            result = confidence.search_with_confidence(
                index.store, query, chosen, reranker, calibration, min_confidence
            )
            result = replace(result, notes=(*result.notes, *_words_note(index, text)))
            seconds = {"embed": embedded - start, "all": time.perf_counter() - start}
            return replace(result, seconds={**seconds, **result.seconds})

        return self._read(work)

    def explain(
        self,
        text: str,
        expected: str,
        *,
        k: int = 10,
        where: Mapping[str, Any] | Filter | None = None,
        reranker: "Reranker | LateInteraction | None" = None,
        **options: Any,
    ) -> "Explanation":
        """Follow a query and the document that should answer it; report where it was lost.

        expected is the id of the document, or the path of its file; the rest is as in `search`.

        >>> explanation = kb.explain("undo a commit", "notes/missing.md")
        >>> explanation.lost_at
        'parsed'
        >>> _ = kb.add(["Undo a commit with git reset."], ["git"])
        >>> print(kb.explain("undo a commit", "git").lost_at)
        None
        """
        from opengte.search.maintenance.explain import explain

        def work(index: Index) -> "Explanation":
            condition = index.filter(where)
            check_filter(index.store, condition)
            chosen = SearchOptions(k=k, where=condition, **options)
            return explain(index, text, expected, chosen, reranker)

        return self._read(work)

    # --- maintenance -----------------------------------------------------------------------------

    def calibrate(
        self,
        questions: "Iterable[Question] | None" = None,
        *,
        generate: int = 300,
        seed: int = 0,
        reranker: "Reranker | LateInteraction | None" = None,
        **options: Any,
    ) -> confidence.Calibration:
        """Learn how sure answers are, store that with the index, and return it with its accuracy.

        It holds only for searches with the same reranker and options. Without questions, some are
        generated from so many documents. Raises InputError if they are too few.

        >>> names = "one two three four five six seven eight nine ten eleven twelve".split()
        >>> _ = kb.add([f"The house of {name} has {name} rooms." for name in names], names)
        >>> kb.calibrate().accuracy.questions > 20
        True
        >>> kb.search("the house of four").confidence is None
        False
        """
        from opengte.search.calibration.calibrate import calibrate

        index = self.latest()
        chosen = SearchOptions(k=confidence.EVIDENCE_HITS, **options)
        given = None if questions is None else list(questions)
        made = calibrate(
            index, given, generate=generate, seed=seed, reranker=reranker, options=chosen
        )
        self._store_calibration(index, made.settings())
        return made

    @property
    def calibration(self) -> confidence.Calibration | None:
        """What `calibrate` learned; None if nothing, or if it was learned with another model.

        >>> kb.calibration is None
        True
        """
        return confidence.calibration_of(self.current.settings)

    def forget_calibration(self) -> None:
        """Remove the calibration: answers have no confidence again.

        >>> kb.forget_calibration()
        >>> kb.calibration is None
        True
        """
        self._store_calibration(self.latest(), None)

    def _store_calibration(self, index: Index, settings: dict[str, Any] | None) -> None:
        updated = index.with_calibration(settings)
        with self._lock:
            if self._index is index:
                self._index = updated

    @staticmethod
    def check(
        path: str | Path,
        *,
        load: LoadEncoder | None = None,
        repair: bool = True,
        storage_options: Mapping[str, str] | None = None,
    ) -> "CheckReport":
        """Check every file and document of an index; mend it unless repair is False.

        Search indexes are made again; what cannot be read is taken from the documents again. Raises
        DamagedIndexError where nothing is left to mend it from.

        >>> report = KnowledgeBase.check(kb.place)
        >>> report.documents, report.damage
        (3, [])
        """
        from opengte.search.maintenance.check import check_index

        return check_index(os.fspath(path), load, storage_options, repair=repair)

    def status(self, sample: int = 20) -> "IndexStatus":
        """Return the state of the index: sizes, problems, and the recall of approximate search.

        The recall is measured with `sample` queries; 0 leaves it out.

        >>> status = kb.status()
        >>> status.health.documents, status.files, status.recall.value
        (3, 3, 1.0)
        """
        from opengte.search.maintenance.status import index_status

        return self._read(lambda index: index_status(index, sample))

    def migrate(
        self,
        encoder: "Encoder",
        *,
        passages: PassageMode | None = None,
        instruction: str | None = None,
    ) -> "Migration":
        """Prepare a migration of the index to another model; nothing is computed yet.

        The index answers and takes documents while the new one is built beside it. Settings that
        are not given stay, as far as the model allows. Raises InputError if the index has this
        model and these settings already, or is in no folder or bucket.

        >>> migration = kb.migrate(Encoder.load("minilm", max_length=256))
        >>> migration.build().embedded
        3
        >>> KnowledgeBase(migration.new).search("undo a commit").hits[0].title
        'Git'
        >>> kb = KnowledgeBase(migration.commit())
        >>> kb.identity.max_length
        256
        """
        from opengte.search.maintenance.migrate import Migration

        return Migration.to(self.latest(), encoder, passages=passages, instruction=instruction)

    def rollback(self) -> "Migration":
        """Prepare a migration back to the previous generation; InputError if there is none.

        The previous model is loaded only if documents changed since.

        >>> _ = kb.migrate(Encoder.load("minilm", max_length=256)).commit()
        >>> kb.rollback().commit().identity.max_length
        512
        """
        from opengte.search.maintenance.migrate import Migration

        return Migration.back(self.latest())


def _words_note(index: Index, text: str) -> tuple[str, ...]:
    """Say that the words of an index do not fit a query: an earlier version made them."""
    old = index.settings.get("words") != segmentation.VERSION and segmentation.extra_terms(text)
    if not old or (index.store.settings() or {}).get("words") == segmentation.VERSION:
        return ()
    return (
        "an earlier version made this index, and words of this script are not all found; "
        "`gte index run` with its files renews them, and embeds nothing again",
    )
