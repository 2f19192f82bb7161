"""`KnowledgeBase`: documents indexed once, found by meaning and by words, with the reason why."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from opengte.errors import InputError
from opengte.search import minhash
from opengte.search.calibration import confidence
from opengte.search.filters import Filter, parse
from opengte.search.ingest import pipeline
from opengte.search.ingest.embedder import Embedder, Passages
from opengte.search.ingest.pipeline import Notify
from opengte.search.ingest.windows import SPAN_TOKENS
from opengte.search.ingest.writer import Document, Report
from opengte.search.maintenance import live_generation
from opengte.search.model_identity import Identity
from opengte.search.parse import walk
from opengte.search.parse.base import Parsed, Scalar
from opengte.search.retrieval import search as query
from opengte.search.retrieval.search import Answer, Asked
from opengte.search.stores.base import Store

if TYPE_CHECKING:
    from opengte.encoder import Encoder, Reranker
    from opengte.search.calibration.questions import Question
    from opengte.search.maintenance.explain import Explanation
    from opengte.search.maintenance.status import Status

T = TypeVar("T")

FORMAT = 1  # of what an index keeps
UNFINISHED = "import that was not finished"
ADDED = "added:"  # source of documents that are in no file


class KnowledgeBase:
    """An index of documents, in a folder or a bucket. Safe to use from several threads.

    >>> kb = KnowledgeBase.create("kb", Encoder.load("minilm"))  # doctest: +SKIP
    >>> kb.index(["notes"]).new  # doctest: +SKIP
    12
    >>> kb.search("how do I undo a commit?").hits[0].title  # doctest: +SKIP
    'Git'
    """

    def __init__(
        self,
        place: str,
        store: Store,
        settings: dict[str, Any],
        load: "Callable[[Identity], Encoder] | None" = None,
    ) -> None:
        self.place = place
        self.store = store
        self.settings = settings
        self.identity = Identity.from_settings(settings["model"])
        self._load = load or _own
        self._encoder: Encoder | None = None
        self._embedder: Embedder | None = None
        self._lock = threading.Lock()
        self._live: live_generation.Live | None = None  # None: a store that is never switched
        self._next: KnowledgeBase | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: "Encoder",
        *,
        passages: Passages = "auto",
        span_tokens: int = SPAN_TOKENS,
        window_tokens: int | None = None,
        first_pass: int | None = None,
        language: str | None = "English",
        instruction: str | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> "KnowledgeBase":
        """Make an empty index at a folder or a URI: see `stores.open`.

        passages is how spans get vectors: `late` (from the states of the whole window), `classic`
        (each embedded once more), `none`, or `auto`: late where the model pools by a mean.
        first_pass finds candidates by that many dimensions (Matryoshka). language is what words
        are stemmed for, None for not at all. InputError if there is something already.
        """
        from opengte.search.stores.open import open_store, shown

        place = os.fspath(path)
        embedder = Embedder(encoder, passages, span_tokens, window_tokens)
        if first_pass is not None and not 1 <= first_pass < encoder.card.dimension:
            raise InputError(
                f"first_pass is {first_pass}, expected 1 to {encoder.card.dimension - 1}"
            )
        if instruction is not None:
            encoder.embed(["x"], role="query", instruction=instruction, progress=False)
        _claim(place)
        store = open_store(place, storage_options)
        if store.settings() is not None:
            raise InputError(
                f"`{shown(place)}` is an index already; open it, or choose another place"
            )
        settings = {
            "format": FORMAT,
            "model": Identity.of(encoder.card, instruction).settings(),
            "dimension": encoder.card.dimension,
            "first_pass": first_pass,
            "passages": embedder.passages,
            "span_tokens": span_tokens,
            "window_tokens": window_tokens,
            "language": language,
        }
        store.save_settings(settings)
        made = cls(shown(place), store, settings)
        made._encoder, made._embedder = encoder, embedder
        made._live = live_generation.look(place, storage_options)
        return made

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: "Encoder | None" = None,
        *,
        load: "Callable[[Identity], Encoder] | None" = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> "KnowledgeBase":
        """Open an index. Unless one is given, its model is loaded, by `load`, when first needed.

        InputError if there is no index, or the encoder is not the one that made it.
        """
        from opengte.search.stores.open import open_store, shown

        place = os.fspath(path)
        if not exists(place):
            error = InputError(f"`{place}` is not an index")
            error.add_note(f"make one: gte index PATHS --to {place}")
            raise error
        now = live_generation.look(place, storage_options)
        store = open_store(place, storage_options)
        settings = store.settings()
        if settings is None and now is not None and not now.unchanged():  # dropped since
            return cls.open(path, encoder, load=load, storage_options=storage_options)
        if settings is None:
            raise InputError(f"`{shown(place)}` holds no index: it was not finished; remove it")
        if settings.get("format") != FORMAT:
            raise InputError(
                f"`{shown(place)}` has the format {settings.get('format')!r}, this version reads "
                f"{FORMAT}: use the version of OpenGTE that made it, or index again"
            )
        base = cls(shown(place), store, settings, load)
        base._live = now
        if encoder is not None:
            base.use(encoder)
        return base

    def latest(self) -> "KnowledgeBase":
        """Return this index as it is now: itself, unless it was switched to another model since.

        Searches and changes do this by themselves. The store, settings and encoder of one object
        never change: what is put together of them is of one model.
        """
        with self._lock:
            if self._live is None or self._live.unchanged():
                return self
            if self._next is None or not self._next.is_live():
                self._next = KnowledgeBase.open(
                    self._live.place, load=self._load, storage_options=self._live.options
                )
            return self._next

    def is_live(self) -> bool:
        """Return whether this is the index that answers now."""
        return self._live is None or self._live.unchanged()

    def _pinned(self) -> "KnowledgeBase":
        """Return what answers a question; in a bucket, looking would cost more than the answer."""
        return self if self._live is None or self._live.remote else self.latest()

    def _answer(self, work: "Callable[[KnowledgeBase], T]") -> T:
        """Do work that reads; do it again where the index was switched, and dropped, meanwhile."""
        base = self._pinned()
        try:
            return work(base)
        except Exception:
            if base.is_live():
                raise
            return self.latest()._answer(work)

    def _change(self, work: "Callable[[KnowledgeBase], Report]") -> Report:
        """Do work that writes; do it again where the index was switched meanwhile."""
        while True:
            base = self.latest()
            try:
                done = work(base)
            except Exception:  # refused, or the old index was dropped while it was read
                if base.is_live():
                    raise
                continue
            if base.is_live() or not base._live or not base._live.remote:
                return done

    @classmethod
    def restore(
        cls,
        file: str | Path,
        path: str | Path,
        *,
        storage_options: Mapping[str, str] | None = None,
    ) -> "KnowledgeBase":
        """Make an index out of a file that `export` wrote."""
        from opengte.search.maintenance import parquet
        from opengte.search.stores.open import open_store, shown

        settings, place = parquet.settings(file), os.fspath(path)
        if settings.get("format") != FORMAT:
            raise InputError(f"`{file}` has the format {settings.get('format')!r}, not {FORMAT}")
        _claim(place)
        store = open_store(place, storage_options)
        there = store.settings()
        if there is not None and there.get("format") != UNFINISHED:
            raise InputError(f"`{shown(place)}` is an index already; choose another place")
        store.save_settings({**settings, "format": UNFINISHED})
        store.delete([one.id for one in store.scan()] if there else [])
        parquet.read(file, store)
        store.save_settings(settings)
        store.optimize()
        made = cls(shown(place), store, settings)
        made._live = live_generation.look(place, storage_options)
        return made

    # --- documents -------------------------------------------------------------------------------

    def index(
        self,
        paths: Iterable[str | Path],
        options: pipeline.Options | None = None,
        notify: Notify = lambda path, size: None,
    ) -> Report:
        """Bring the documents of files and folders up to date, and remove those that are gone."""
        chosen = options or pipeline.Options()
        places = [os.fspath(path) for path in paths]
        for place in places:
            if not os.path.exists(place):
                raise InputError(f"`{place}` does not exist")

        def work(base: KnowledgeBase) -> Report:
            embedder = None if chosen.dry_run else lambda: base.embedder
            return pipeline.run(base.store, embedder, places, chosen, notify)

        return self._change(work)

    def add(
        self,
        texts: Iterable[str],
        ids: Iterable[str],
        *,
        titles: Iterable[str] | None = None,
        metadata: Iterable[Mapping[str, Scalar]] | None = None,
    ) -> Report:
        """Add texts under ids of your own, in place of what these ids had."""
        texts, ids = list(texts), list(ids)
        many_titles = [""] * len(texts) if titles is None else list(titles)
        records = [{} for _ in texts] if metadata is None else [dict(one) for one in metadata]
        if not len(texts) == len(ids) == len(many_titles) == len(records):
            raise InputError(
                f"{len(texts)} texts came with {len(ids)} ids, {len(many_titles)} titles and "
                f"{len(records)} records of metadata: expected as many of each"
            )
        if len(set(ids)) < len(ids):
            raise InputError("ids holds the same id twice; expected one for each text")
        documents = [
            Document(name, ADDED, Parsed(text, title=title, metadata=record))
            for name, text, title, record in zip(ids, texts, many_titles, records, strict=True)
        ]
        return self._change(lambda base: pipeline.add(base.store, lambda: base.embedder, documents))

    def delete(self, ids: Iterable[str]) -> None:
        """Remove documents by id."""
        names = list(ids)

        def work(base: KnowledgeBase) -> Report:
            base.store.delete(names)
            return Report()

        self._change(work)

    def duplicates(self) -> list[list[str]]:
        """Return groups of documents whose texts are nearly the same."""
        store = self._pinned().store
        return minhash.groups({one.id: one.signature for one in store.scan()})

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield (place, reason) of files, or rows of them, that gave no text, or a doubtful one."""
        for source in self._pinned().store.sources():
            for reason in (*source.problems, *source.warnings):
                yield source.id, reason

    def export(self, path: str | Path) -> int:
        """Write everything to a Parquet file that any tool reads; return the documents."""
        from opengte.search.maintenance import parquet

        return parquet.write(self._pinned(), path)

    # --- search ----------------------------------------------------------------------------------

    def search(
        self,
        text: str,
        k: int = 10,
        *,
        where: Mapping[str, Any] | Filter | None = None,
        reranker: "Reranker | None" = None,
        min_confidence: "confidence.Least" = None,
        **options: Any,
    ) -> Answer:
        """Return the k documents that answer a question best; options are those of query.Options.

        An index that was calibrated says how sure it is. With min_confidence (`auto`: the
        threshold that was learned) an answer that is less sure has no hits.

        >>> kb.search("parental leave", where={"folder": {"$starts": "hr/"}})  # doctest: +SKIP
        """
        chosen = query.Options(k=k, where=parse(where), **options)

        def work(base: KnowledgeBase) -> Answer:
            start = time.perf_counter()
            asked = base.ask(text)
            embedded = time.perf_counter()
            learned = confidence.of(base.settings)
            answer = confidence.search(base.store, asked, chosen, reranker, learned, min_confidence)
            seconds = {"embed": embedded - start, "all": time.perf_counter() - start}
            return replace(answer, seconds={**seconds, **answer.seconds})

        return self._answer(work)

    def explain(
        self,
        text: str,
        expected: str,
        *,
        k: int = 10,
        where: Mapping[str, Any] | Filter | None = None,
        reranker: "Reranker | None" = None,
        **options: Any,
    ) -> "Explanation":
        """Follow one question and the document that should answer it; say where it was lost.

        expected is the id of a document, or the path of its file.
        """
        from opengte.search.maintenance.explain import explain

        chosen = query.Options(k=k, where=parse(where), **options)
        return self._answer(lambda base: explain(base, text, expected, chosen, reranker))

    def calibrate(
        self,
        questions: "Iterable[Question] | None" = None,
        *,
        generate: int = 300,
        seed: int = 0,
        reranker: "Reranker | None" = None,
        **options: Any,
    ) -> confidence.Calibration:
        """Learn how sure answers are, and keep it with the index; say how well it works.

        Without questions whose answers are known, some are made out of so many documents. What is
        learned holds for searches with this reranker and these options only.
        """
        from opengte.search.calibration.calibrate import calibrate

        base = self.latest()
        chosen = query.Options(k=confidence.AMONG, **options)
        given = None if questions is None else list(questions)
        made = calibrate(
            base, given, generate=generate, seed=seed, reranker=reranker, options=chosen
        )
        base._keep_calibration(made.settings())
        return made

    @property
    def calibration(self) -> confidence.Calibration | None:
        """What `calibrate` learned; None if nothing, or with another model."""
        return confidence.of(self._pinned().settings)

    def forget_calibration(self) -> None:
        """Answer without confidence again."""
        self.latest()._keep_calibration(None)

    def _keep_calibration(self, settings: dict[str, Any] | None) -> None:
        self.settings = {**(self.store.settings() or self.settings), "calibration": settings}
        self.store.save_settings(self.settings)

    def status(self, sample: int = 20) -> "Status":
        """Return the state of the index; recall is probed with this many questions, 0 for none."""
        from opengte.search.maintenance.status import status

        return self._answer(lambda base: status(base, sample))

    def ask(self, text: str) -> Asked:
        """Return a question as the legs take it."""
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"the query is {text!r:.40}, expected some words")
        outputs: Any = ["dense", *(["sparse"] if "sparse" in self.encoder.card.outputs else [])]
        found = self.encoder.embed(
            [text],
            role="query",
            instruction=self.identity.instruction,
            outputs=outputs,
            progress=False,
        )
        assert found.dense is not None
        return Asked(text, found.dense[0], found.sparse[0] if found.sparse else {})

    # --- the model -------------------------------------------------------------------------------

    @property
    def encoder(self) -> "Encoder":
        """The model that made this index, loaded when first needed."""
        with self._lock:
            if self._encoder is None:
                loaded = self._load(self.identity)
                self._check(loaded)
                self._encoder = loaded
            return self._encoder

    def use(self, encoder: "Encoder") -> None:
        """Take a loaded model; InputError if it is not the one that made this index."""
        self._check(encoder)
        with self._lock:
            self._encoder, self._embedder = encoder, None

    @property
    def embedder(self) -> Embedder:
        """What cuts and embeds documents for this index."""
        encoder = self.encoder
        with self._lock:
            if self._embedder is None:
                self._embedder = Embedder(
                    encoder,
                    self.settings["passages"],
                    self.settings["span_tokens"],
                    self.settings["window_tokens"],
                )
            return self._embedder

    def _check(self, encoder: "Encoder") -> None:
        found = Identity.of(encoder.card, self.identity.instruction)
        self.identity.check(found, self.place)


def _own(identity: Identity) -> "Encoder":
    """Load the model of an index, as it was when the index was made."""
    from opengte.encoder import Encoder

    return Encoder.load(
        identity.model, precision=identity.precision, max_length=identity.max_length
    )


def exists(path: str | Path) -> bool:
    """Return whether a path looks like an index; of a URI this is only known when it is opened."""
    place = os.fspath(path)
    return "://" in place or os.path.exists(os.path.join(place, walk.MARK))


def _claim(place: str) -> None:
    """Make the folder of an index, and mark it; refuse one with something else in it."""
    if "://" in place:
        return
    mark = os.path.join(place, walk.MARK)
    if os.path.exists(place) and not os.path.isdir(place):
        raise InputError(f"`{place}` is a file, expected a folder or a name that is free")
    if os.path.isdir(place) and os.listdir(place) and not os.path.exists(mark):
        raise InputError(f"`{place}` holds other files; choose an empty folder for the index")
    os.makedirs(place, exist_ok=True)
    with open(mark, "w", encoding="utf-8") as file:
        file.write('{"made by": "OpenGTE", "what": "an index; see `gte index status`"}\n')
