"""`Index`: one generation of an index, which is a store, its settings and its model. It is fixed.

A `KnowledgeBase` follows an index from one generation to the next. Whatever must not see two models
at once takes an `Index`: calibration, explanation, status, export, migration, comparison.
"""

import copy
import logging
import os
import threading
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opengte.errors import DamagedIndexError, InputError, OpenGTEError
from opengte.search import segmentation
from opengte.search.access import LimitedStore
from opengte.search.filters import Filter, conditions, parse_filter
from opengte.search.ingest.embedder import Embedder
from opengte.search.model_identity import ModelIdentity, adopt_settings
from opengte.search.parse import walk
from opengte.search.retrieval.late import LateQuery
from opengte.search.retrieval.search import EncodedQuery
from opengte.search.roots import PLACES, Roots
from opengte.search.stores.base import Store
from opengte.search.stores.lancedb.generations import (
    FIRST,
    LiveGeneration,
    live_generation,
    settings_lock,
)
from opengte.search.stores.listing import store_revision
from opengte.search.stores.url import hide_password

if TYPE_CHECKING:
    from opengte.encoder import Encoder, LateInteraction

log = logging.getLogger(__name__)

LoadEncoder = Callable[[ModelIdentity], "Encoder"]

INDEX_FORMAT = 2  # version of what an index stores
FORMATS = (1, INDEX_FORMAT)  # that are read; 1: ids are absolute paths
UNFINISHED = "import that was not finished"


class Index:
    """A store, the settings that the index was made with, and its model.

    The model is loaded by `load` when it is first needed. live is the pointer of the place when the
    index was opened; None for a store that cannot be migrated in place.
    """

    def __init__(
        self,
        place: str,
        store: Store,
        settings: dict[str, Any],
        load: LoadEncoder | None = None,
        *,
        encoder: "Encoder | None" = None,
        live: LiveGeneration | None = None,
    ) -> None:
        self.place = place
        self.store = store
        self.settings = settings
        self.identity = ModelIdentity.from_settings(settings["model"])
        self.load = load
        self.live = live
        self._roots: tuple[object, Roots] | None = None
        self._model = _Model(self.identity, place, load or _load_encoder, self._adopt)
        self._late: _Model | None = None
        if settings.get("late") is not None:
            identity = ModelIdentity.from_settings(settings["late"])
            self._late = _Model(identity, place, _load_encoder, lambda encoder: None)
        if encoder is not None:
            self._model.use(encoder)

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: "Encoder",
        settings: Mapping[str, Any],
        instruction: str | None,
        storage_options: Mapping[str, str] | None = None,
        late: "LateInteraction | None" = None,
    ) -> "Index":
        """Make an empty index; settings are those of `KnowledgeBase.create`."""
        from opengte.search.stores.open import open_store

        place, dimension = os.fspath(path), encoder.card.dimension
        embedder = _embedder(encoder, settings, late)
        first_pass = settings["first_pass"]
        if first_pass is not None and not 1 <= first_pass < dimension:
            raise InputError(f"first_pass is {first_pass}, expected 1 to {dimension - 1}")
        if instruction is not None:  # InputError if the model takes none
            encoder.embed(["x"], role="query", instruction=instruction, progress=False)
        claim_folder(place)
        store, shown = open_store(place, storage_options), hide_password(place)
        if late is not None and store.name not in ("lance", "memory"):
            raise InputError(
                f"late is `{late.card.name}`, but `{shown}` keeps no token vectors: only an index "
                "in a folder or a bucket (LanceDB) does"
            )
        if store.settings() is not None:
            raise InputError(f"`{shown}` is an index already; open it, or choose another place")
        stored = {
            "format": INDEX_FORMAT,
            "model": ModelIdentity.of(encoder.card, instruction).settings(),
            "dimension": dimension,
            **settings,
            "passages": embedder.passages,
            "words": segmentation.VERSION,
        }
        if late is not None:
            stored["late"] = ModelIdentity.of(late.card, None).settings()
        store.save_settings(stored)
        live = live_generation(place, storage_options)
        made = cls(shown, store, stored, encoder=encoder, live=live)
        if late is not None and made._late is not None:
            made._late.use(late.encoder)
        return made

    @classmethod
    def open(
        cls,
        path: str | Path,
        encoder: "Encoder | None" = None,
        *,
        load: LoadEncoder | None = None,
        storage_options: Mapping[str, str] | None = None,
    ) -> "Index":
        """Open the live generation at a folder or URI.

        Raises InputError if there is no index, its format is another version's, or the encoder is
        not the model that made it.
        """
        from opengte.search.stores.open import open_store

        place = os.fspath(path)
        if _has_tables(place) and not os.path.exists(os.path.join(place, walk.INDEX_MARKER)):
            raise DamagedIndexError(
                f"the index `{place}` is damaged: `{walk.INDEX_MARKER}` is missing; "
                f"`gte index check {place}` mends it"
            )
        if not index_exists(place):
            error = InputError(f"`{place}` is not an index")
            error.add_note(f"make one: gte index PATHS --to {place}")
            raise error
        live = live_generation(place, storage_options)
        store = open_store(place, storage_options)
        shown = hide_password(place)
        try:
            settings = store.settings()
        except Exception as raised:
            if (found := damaged(raised, store, shown)) is not None:
                raise found from raised
            raise
        if settings is None and live is not None and not live.is_current():  # dropped meanwhile
            return cls.open(path, encoder, load=load, storage_options=storage_options)
        if settings is None:
            error = InputError(f"`{shown}` holds no index: it was stopped before its first commit")
            error.add_note(f"go on: gte index PATHS --to {shown}")
            raise error
        if settings.get("format") not in FORMATS:
            raise InputError(
                f"`{shown}` has the format {settings.get('format')!r}, this version reads "
                f"{FORMATS}: use the version of OpenGTE that made it, or index again"
            )
        return cls(shown, store, settings, load, encoder=encoder, live=live)

    def reopen(self) -> "Index":
        """Open the generation that is live now at the same place."""
        assert self.live is not None
        return Index.open(self.live.place, load=self.load, storage_options=self.live.options)

    def is_live(self) -> bool:
        """Return whether no migration has replaced this generation."""
        return self.live is None or self.live.is_current()

    @property
    def encoder(self) -> "Encoder":
        """The model that made this index, loaded on first use."""
        return self._model.encoder

    @property
    def late(self) -> "LateInteraction | None":
        """The model of the token vectors of this index, loaded on first use; None without them."""
        if self._late is None:
            return None
        from opengte.encoder import LateInteraction

        return LateInteraction(self._late.encoder)

    @cached_property
    def embedder(self) -> Embedder:
        """Splits and embeds documents with the settings of this index."""
        return _embedder(self.encoder, self.settings, self.late)

    def encode_query(self, text: str) -> EncodedQuery:
        """Encode a query for every retriever. Raises InputError for a query without words."""
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"the query is {text!r:.40}, expected some words")
        outputs: Any = ["dense", *(["sparse"] if "sparse" in self.encoder.card.outputs else [])]
        result = self.encoder.embed(
            [text],
            role="query",
            instruction=self.identity.instruction,
            outputs=outputs,
            progress=False,
        )
        assert result.dense is not None
        sparse = result.sparse[0] if result.sparse else {}
        model = self.late
        if model is None:
            return EncodedQuery(text, result.dense[0], sparse)
        late, cut = LateQuery.of(model, text)
        return EncodedQuery(text, result.dense[0], sparse, late, late_truncated=cut)

    def limited(self, where: Filter | None) -> "Index":
        """Return the documents that match, as a read-only index that shares the model."""
        if where is None:
            return self
        return self._replace(store=LimitedStore(self.store, where), live=None)

    def with_calibration(self, calibration: dict[str, Any] | None) -> "Index":
        """Write a calibration to the store, None to remove it, and return the index with it."""
        other = self._replace()
        other.change_settings(lambda settings: {**settings, "calibration": calibration})
        return other

    @property
    def roots(self) -> Roots:
        """The folders that documents come from, as the store knows them now."""
        revision = store_revision(self.store)
        if self._roots is None or self._roots[0] != revision:
            found = Roots.of(self.store.settings() or self.settings, self.place)
            self._roots = revision, found
        return self._roots[1]

    def change_roots(self, change: Callable[[Roots], Roots]) -> Roots:
        """Change the folders that documents come from, and return them."""

        def changed(settings: dict[str, Any]) -> dict[str, Any]:
            roots = change(Roots.of(settings, self.place)).settings(self.place)
            return {**settings, "roots": roots, "format": INDEX_FORMAT}

        self.change_settings(changed)
        return self.roots

    def change_settings(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Change the settings of the index; others that change them wait meanwhile."""
        with settings_lock(self.place):
            self.settings = change(self.store.settings() or self.settings)
            self.store.save_settings(self.settings)
        self._roots = None

    def filter(self, where: Mapping[str, Any] | Filter | None) -> Filter | None:
        """Return the filter of a mapping; absolute paths in it mean the documents at them."""
        found = parse_filter(where)
        place = any(x.field in PLACES and "/" in str(x.value) for x in conditions(found))
        return self.roots.translate(found) if found is not None and place else found

    def _adopt(self, encoder: "Encoder") -> None:
        """Store the fingerprint that the model has now, if its former one made the index."""
        identity = self.identity.adopt(encoder)
        if identity == self.identity:
            return
        self.settings = adopt_settings(self.settings, encoder)
        self.identity = identity
        try:
            with settings_lock(self.place):
                self.store.save_settings(adopt_settings(self.store.settings() or {}, encoder))
        except Exception as error:  # any store's: the index is only read
            log.warning("the new fingerprint cannot be kept in %s: %s", self.place, error)

    def _replace(self, **values: Any) -> "Index":
        other = copy.copy(self)
        vars(other).update(values)
        return other


class _Model:
    """The model of an index, loaded once for all that share it. Safe for several threads."""

    def __init__(
        self,
        identity: ModelIdentity,
        place: str,
        load: LoadEncoder,
        adopt: Callable[["Encoder"], None],
    ) -> None:
        self._identity = identity
        self._place = place
        self._load = load
        self._adopt = adopt
        self._encoder: Encoder | None = None
        self._lock = threading.Lock()

    @property
    def encoder(self) -> "Encoder":
        with self._lock:
            if self._encoder is None:
                self.use(self._load(self._identity))
            assert self._encoder is not None
            return self._encoder

    def use(self, encoder: "Encoder") -> None:
        """Take a loaded model; InputError if it is not the one that made the index."""
        other = ModelIdentity.of(encoder.card, self._identity.instruction)
        self._identity.adopt(encoder).check(other, self._place)
        self._adopt(encoder)
        self._encoder = encoder


def _embedder(
    encoder: "Encoder", settings: Mapping[str, Any], late: "LateInteraction | None"
) -> Embedder:
    passages, span = settings["passages"], settings["span_tokens"]
    return Embedder(encoder, passages, span, settings["window_tokens"], late)


def _load_encoder(identity: ModelIdentity) -> "Encoder":
    """Load the model of an index with the settings that the index was made with."""
    from opengte.encoder import Encoder

    return Encoder.load(
        identity.model, precision=identity.precision, max_length=identity.max_length
    )


def index_exists(path: str | Path) -> bool:
    """Return whether a folder holds an index; True for any URI, which only opening can tell."""
    place = os.fspath(path)
    marked = "://" in place or os.path.exists(os.path.join(place, walk.INDEX_MARKER))
    return marked or _has_tables(place)


def claim_folder(place: str) -> None:
    """Make the folder of a new index and mark it; InputError if it holds anything else."""
    if "://" in place:
        return
    marker = os.path.join(place, walk.INDEX_MARKER)
    if os.path.exists(place) and not os.path.isdir(place):
        raise InputError(f"`{place}` is a file, expected a folder or a name that is free")
    if os.path.isdir(place) and os.listdir(place) and not os.path.exists(marker):
        raise InputError(f"`{place}` holds other files; choose an empty folder for the index")
    mark_folder(place)


def mark_folder(place: str) -> None:
    """Write the file that says that a folder is an index."""
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, walk.INDEX_MARKER), "w", encoding="utf-8") as file:
        file.write('{"made by": "OpenGTE", "what": "an index; see `gte index status`"}\n')


def _has_tables(place: str) -> bool:
    """Return whether a folder is an index, though it may have lost its mark."""
    try:
        names = [x for x in os.listdir(place) if x.startswith(FIRST)]
    except OSError:
        return False
    return any(os.path.isdir(os.path.join(place, x, "windows.lance")) for x in names)


def damaged(error: BaseException, store: Store, place: str) -> OpenGTEError | None:
    """Return the error that names what is damaged, None where an error has another cause."""
    explain = getattr(store, "damage_of", None)
    return explain(error, place) if explain else None
