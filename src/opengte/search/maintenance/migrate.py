"""Migrate an index to another model: build a second generation beside the live one, then switch.

The live index keeps answering and taking documents. Its documents are embedded into the second
generation in commits, so that a killed migration continues. Then, while writers are excluded for a
moment, the last differences are copied and the pointer moves. Until then the index is unchanged;
afterwards the previous generation is retained for a rollback.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from opengte.errors import InputError
from opengte.search import segmentation
from opengte.search.index import Index
from opengte.search.ingest.embedder import Embedder, PassageMode
from opengte.search.ingest.writer import BATCH_CHARACTERS, BATCH_DOCUMENTS, COMMIT_SECONDS
from opengte.search.model_identity import ModelIdentity, adopt_settings
from opengte.search.stores.base import DocumentHashes, SourceFile, Store, StoredDocument
from opengte.search.stores.lancedb import generations

if TYPE_CHECKING:
    from opengte.encoder import Encoder

LISTED = 500  # ids that are compared at once
FETCHED = 64  # documents that are held at once beside those of a commit
FEW = 32  # differences that are carried over while writers wait
PASSES = 4  # over the live index before writers are made to wait, at most
OWN = ("calibration", "roots")  # settings that a new generation does not begin with
NOT_TOLD = (*OWN, "words", "format")  # settings that do not make a generation another one

ProgressCallback = Callable[[int], object]  # so many documents more are done


@dataclass
class MigrationStats:
    """What a migration did, or would do. Counts are documents."""

    documents: int = 0  # in the live index
    embedded: int = 0
    copied: int = 0  # changed in what is not embedded, or the same text is there already
    removed: int = 0
    truncated: int = 0
    upkeep: list[str] = field(default_factory=list)  # what the store could not tidy up

    @property
    def changed(self) -> int:
        """Return how many documents were not as they are in the live index."""
        return self.embedded + self.copied + self.removed


class Migration:
    """A generation of an index in another model, beside the live one.

    >>> migration = kb.migrate(Encoder.load("minilm", max_length=256))
    >>> migration.plan().embedded, migration.build().embedded
    (3, 3)
    >>> migration.commit().identity.max_length
    256
    """

    def __init__(
        self,
        old: Index,
        name: str,
        settings: dict[str, Any],
        encoder: "Encoder | None" = None,
    ) -> None:
        self.old = old
        self.name = name
        self.settings = settings
        self._encoder = encoder
        self._pointer, self._options = _pointer(old)
        self._new: Index | None = None
        self._listed: dict[
            str, DocumentHashes
        ] = {}  # of a bucket's live index, when last carried over
        self.done = MigrationStats()

    @classmethod
    def to(
        cls,
        old: Index,
        encoder: "Encoder",
        *,
        passages: PassageMode | None = None,
        instruction: str | None = None,
    ) -> "Migration":
        """Return a switch to a loaded model; InputError if it is the index's own already.

        Settings that are not given stay, as far as the model can keep them: an instruction only if
        it takes one, a first pass only of fewer dimensions than it has.
        """
        settings = _settings(old, encoder, passages, instruction)
        if _key(settings) == _key(adopt_settings(old.settings, encoder)):
            raise InputError(
                f"the index `{old.place}` is in `{encoder.card.name}` "
                f"({encoder.card.precision}), with these settings, already"
            )
        return cls(old, _name(old, settings, encoder), settings, encoder)

    @classmethod
    def back(cls, old: Index) -> "Migration":
        """Return a switch to the generation before; InputError if there is none.

        Its model is loaded only if documents changed since.
        """
        pointer, options = _pointer(old)
        store = pointer.previous and _open(old.place, options, pointer.previous)
        settings = store.settings() if store else None
        if pointer.previous is None or settings is None:
            raise InputError(
                f"the index `{old.place}` has no generation to go back to: it was not switched, or "
                "the old one was dropped"
            )
        return cls(old, pointer.previous, settings)

    @property
    def new(self) -> Index:
        """The second index, to search in; made when it is first asked for."""
        if self._new is None:
            store = _open(self.old.place, self._options, self.name)
            kept = store.settings()
            if kept is None:
                store.save_settings(self.settings)
            self._new = Index(
                self.old.place,
                store,
                kept or self.settings,
                self.old.load,
                encoder=self._encoder,
            )
        return self._new

    def plan(self) -> MigrationStats:
        """Return what would be done, and do nothing."""
        made = None
        if generations.generation_exists(self.old.place, self.name):
            store = _open(self.old.place, self._options, self.name)
            made = store if store.settings() is not None else None
        found = MigrationStats(documents=self.old.store.count())
        for part in _parts(_entries(self.old.store), LISTED):
            there = made.known(list(part)) if made else {}
            for name, known in part.items():
                mine = there.get(name)
                found.copied += mine is not None and mine != known and mine.content == known.content
                found.embedded += mine is None or mine.content != known.content
        if made:
            for part in _parts(_entries(made), LISTED):
                found.removed += len(part.keys() - self.old.store.known(list(part)).keys())
        return found

    def build(self, notify: ProgressCallback = lambda count: None) -> MigrationStats:
        """Embed all documents of the live index that are not there yet; continue a killed build."""
        with generations.migration_lock(self.old.place):
            for number in range(PASSES):
                before = self.done.changed
                self._carry(notify if number == 0 else lambda count: None)
                if self.done.changed - before <= FEW:
                    break
            self.done.upkeep = list(self.new.store.optimize())
        return self.done

    def commit(self, *, keep_old: bool = True) -> Index:
        """Carry the last differences over, move the pointer, and return the index as it is now.

        Readers that are open see the old index or the new one; one that is in the middle of a
        search when the old one is dropped may fail.
        """
        place, options = self.old.place, self._options
        with generations.migration_lock(place):
            self._carry(lambda count: None)  # what can be done before writers wait
            with generations.exclusive_lock(place):
                before = generations.read_pointer(place, options)
                if before.current != self._pointer.current:
                    raise InputError(f"another process switched the index `{place}` meanwhile")
                if not generations.is_remote(place):
                    self._carry(lambda count: None)
                self._carry_roots()
                kept = before.current if keep_old else None
                after = generations.Pointer(self.name, kept)
                generations.write_pointer(place, after, options)
            if generations.is_remote(place):
                self._settle()
            generations.drop_unreferenced(place, after, before, options)
        return Index.open(place, self._encoder, load=self.old.load, storage_options=options)

    # --- documents -------------------------------------------------------------------------------

    def _carry(self, notify: ProgressCallback) -> None:
        """Make the new generation hold what the live one holds; only differences are done."""
        old, new = self.old.store, self.new.store
        sources = {one.id: one for one in old.sources()}  # before the documents that they vouch for
        self._listed = {}
        self.done.documents = old.count()
        for documents in _commits(self._changed(notify)):
            self._put(documents)
        for part in _parts(_entries(new), LISTED):
            kept = old.known(list(part))
            gone = [name for name in part if name not in kept]
            if gone:
                new.delete(gone)
                self.done.removed += len(gone)
        _put_sources(sources, new)

    def _carry_roots(self) -> None:
        """Give the new generation the folders of the live one, which its ids begin with."""
        live, new = self.old.store.settings() or {}, self.new.store
        mine: dict[str, Any] = {x: live[x] for x in ("roots", "format") if x in live}
        new.save_settings({**(new.settings() or self.settings), **mine})

    def _changed(self, notify: ProgressCallback) -> Iterator[StoredDocument]:
        """Yield the documents of the live index that the new one has not, or not so."""
        old, new = self.old.store, self.new.store
        for part in _parts(_entries(old), LISTED):
            if generations.is_remote(self.old.place):
                self._listed |= part
            there = new.known(list(part))
            wanted = [name for name, known in part.items() if there.get(name) != known]
            notify(len(part) - len(wanted))
            for start in range(0, len(wanted), FETCHED):
                names = wanted[start : start + FETCHED]
                yield from (replace(one, windows=()) for one in old.fetch(names).values())
                notify(len(names))

    def _put(self, documents: list[StoredDocument]) -> None:
        """Write documents with vectors of the new model, computed only where no text has them."""
        new = self.new.store
        there = new.with_content([one.content for one in documents])
        fresh = {one.content: one for one in documents if one.content not in there}
        made: dict[str, tuple[Any, bool]] = {
            content: (twin.windows, twin.truncated) for content, twin in there.items()
        }
        if fresh:
            parts = [(one.title, one.text, one.sections) for one in fresh.values()]
            found = self.new.embedder.embed(parts)
            for content, result in zip(fresh, found, strict=True):
                made[content] = result.windows, result.truncated
        stored = [
            replace(one, windows=made[one.content][0], truncated=made[one.content][1])
            for one in documents
        ]
        new.put(stored)
        self.done.embedded += len(fresh)
        self.done.copied += len(documents) - len(fresh)
        self.done.truncated += sum(one.truncated for one in stored)

    def _settle(self) -> None:
        """Carry over what was written to the old generation of a bucket until the pointer moved.

        Only that: the new generation is live, and what was written to it since stands.
        """
        old, new, now = self.old.store, self.new.store, dict(_entries(self.old.store))
        late = [name for name, known in now.items() if self._listed.get(name) != known]
        for start in range(0, len(late), FETCHED):
            self._put(list(old.fetch(late[start : start + FETCHED]).values()))
        gone = [name for name in self._listed if name not in now]
        same = new.known(gone)
        new.delete([name for name in gone if same.get(name) == self._listed[name]])


def _settings(
    old: Index,
    encoder: "Encoder",
    passages: PassageMode | None,
    instruction: str | None,
) -> dict[str, Any]:
    card, kept = encoder.card, dict(old.settings)
    for name in OWN:
        kept.pop(name, None)
    if instruction is None and card.instruction_template is not None:
        instruction = old.identity.instruction
    if instruction is not None:
        encoder.embed(["x"], role="query", instruction=instruction, progress=False)
    way = passages or ("none" if kept["passages"] == "none" else "auto")
    embedder = Embedder(encoder, way, kept["span_tokens"], kept["window_tokens"])
    first = kept["first_pass"]
    model = {
        "model": ModelIdentity.of(card, instruction).settings(),
        "dimension": card.dimension,
        "first_pass": first if first and first < card.dimension else None,
        "passages": embedder.passages,
    }
    return {**kept, **model, "words": segmentation.VERSION}


def _key(settings: Mapping[str, Any]) -> str:
    """Return what tells one generation from another: all settings that vectors depend on."""
    told = {name: value for name, value in settings.items() if name not in NOT_TOLD}
    told["model"] = {k: v for k, v in told["model"].items() if k not in ("model", "source")}
    return json.dumps(told, sort_keys=True)


def _name(old: Index, settings: Mapping[str, Any], encoder: "Encoder") -> str:
    """Return the generation of these settings: the one before, if it is, or one of its own."""
    pointer, options = _pointer(old)
    if pointer.previous is not None:
        kept = _open(old.place, options, pointer.previous).settings()
        if kept is not None and _key(adopt_settings(kept, encoder)) == _key(settings):
            return pointer.previous
    digest = hashlib.sha256(_key(settings).encode()).hexdigest()
    return f"{generations.FIRST}-{digest[:12]}"


def previous_model(index: Index) -> str | None:
    """Return the model of the generation that a rollback would go to, None if there is none."""
    if index.live is None:
        return None
    pointer, options = _pointer(index)
    store = pointer.previous and _open(index.place, options, pointer.previous)
    settings = store.settings() if store else None
    return str(settings["model"]["model"]) if settings else None


def _pointer(old: Index) -> tuple[generations.Pointer, Any]:
    if old.live is None:
        raise InputError(
            f"the index `{old.place}` cannot be switched where it is: only folders and buckets "
            "hold two generations. Index to a new place, and use that one when it is done"
        )
    live = generations.LiveGeneration(old.live.place, old.live.options)
    return live.pointer, live.options


def _open(place: str, options: Any, name: str) -> Any:
    from opengte.search.stores.lancedb.store import open_store

    return open_store(place, options, name)


def _entries(store: Store) -> Iterator[tuple[str, DocumentHashes]]:
    """Yield ids and hashes; stores that hold generations can list them."""
    found: Iterator[tuple[str, DocumentHashes]] = cast(Any, store).entries()
    return found


def _parts(
    entries: Iterable[tuple[str, DocumentHashes]], size: int
) -> Iterator[dict[str, DocumentHashes]]:
    stream = iter(entries)
    while part := dict(islice(stream, size)):
        yield part


def _commits(documents: Iterable[StoredDocument]) -> Iterator[list[StoredDocument]]:
    """Cut documents into commits of about as many seconds each."""
    least, most, largest = BATCH_CHARACTERS
    batch: list[StoredDocument] = []
    held = 0
    for one in documents:
        batch.append(one)
        held += len(one.text)
        if len(batch) >= BATCH_DOCUMENTS or held >= most:
            start = time.perf_counter()
            yield batch
            rate = held / max(1e-6, time.perf_counter() - start)
            most = int(min(largest, max(least, rate * COMMIT_SECONDS)))
            batch, held = [], 0
    if batch:
        yield batch


def _put_sources(sources: Mapping[str, SourceFile], new: Store) -> None:
    there = {one.id: one for one in new.sources()}
    new.put_sources([one for one in sources.values() if there.get(one.id) != one])
    new.delete_sources([name for name in there if name not in sources])
