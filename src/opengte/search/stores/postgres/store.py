"""PostgreSQL with pgvector as a store: transactions, many writers, vectors beside other tables.

Documents are written and removed in one transaction each time; writers of one index take turns,
readers never wait. Words have an inverted index of our own, a table, because `ts_rank` is not BM25
and a tsvector holds no large document: scores are BM25, and part of the same transaction.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from opengte.errors import InputError
from opengte.search.filters import Filter
from opengte.search.stores.base import (
    DocumentHashes,
    ScoredIds,
    SourceFile,
    SparseVector,
    StoredDocument,
    StoreHealth,
)
from opengte.search.stores.bm25 import K1, B, term_counts
from opengte.search.stores.listing import (
    HEAD_CHARACTERS,
    DocumentHeader,
    DocumentSummary,
    mean_direction,
)
from opengte.search.stores.postgres import rows as pgrows
from opengte.search.stores.postgres import schema
from opengte.search.stores.postgres.connections import ConnectionPool
from opengte.search.stores.postgres.filters import to_sql as where_sql
from opengte.search.stores.postgres.schema import document_key, replace_nul
from opengte.types import Floats

PART = 256  # documents that are read at once
MIN_CANDIDATES, MAX_CANDIDATES = 100, 100_000  # candidates of one search
OVERSAMPLING = 4  # candidates of a first pass for each that is wanted

# the best k of `near`, which has a row for each window, or word, of a document; ties by id
BEST = """
best AS (SELECT document, {total}(score) AS score FROM near GROUP BY document
  ORDER BY score DESC FETCH FIRST (%s) ROWS WITH TIES)
SELECT d.id, best.score, (SELECT count(*) FROM near)
FROM best JOIN documents d ON d.key = best.document
ORDER BY best.score DESC, d.id COLLATE "C" LIMIT %s
"""
WINDOWS = BEST.format(total="max")
LEXICAL = f"""
WITH asked AS (SELECT * FROM unnest(%s::text[], %s::float8[]) AS a(term, times)),
  held AS (SELECT term, count(*) AS documents FROM words JOIN asked USING (term) GROUP BY term),
  near AS (SELECT w.document,
    a.times * ln(1 + (t.documents - h.documents + 0.5) / (h.documents + 0.5))
      * w.often * {K1 + 1} / (w.often + {K1} * ({1 - B} + {B} * w.length
        / greatest(1.0, t.words::float8 / greatest(1, t.documents)))) AS score
    FROM words w JOIN asked a USING (term) JOIN held h USING (term) CROSS JOIN totals t
    {{where}}),
  {BEST.format(total="sum")}
"""


class PostgresStore:
    """A store in a schema of a database, at postgresql://host/database?schema=name."""

    name = "postgres"

    def __init__(self, url: str) -> None:
        self.database = ConnectionPool(url)
        self.uri = self.database.uri
        self._known: dict[str, Any] | None = None

    # --- settings and files ----------------------------------------------------------------------

    def settings(self) -> dict[str, Any] | None:
        """Return what `save_settings` kept, None in a schema that is empty."""
        if not self.database.has("settings"):
            return None
        row = next(iter(self.database.rows("SELECT value FROM settings")), None)
        return json.loads(row[0]) if row else None

    def save_settings(self, settings: Mapping[str, Any]) -> None:
        """Keep what the knowledge base must know of itself, and make its tables."""
        term_counts("", settings.get("language"))  # a language that is not known is told now
        with self.database.writing() as cursor:
            schema.require_pgvector(cursor, self.uri)
            schema.create_tables(cursor, self.database.schema, settings["dimension"])
            cursor.execute("DELETE FROM settings")
            cursor.execute("INSERT INTO settings VALUES (%s)", [json.dumps(dict(settings))])
        self._known = None

    def sources(self) -> Iterator[SourceFile]:
        """Yield every file that was looked at."""
        with self.database.reading() as cursor:
            cursor.execute("SELECT id, value FROM sources")
            rows = cursor.fetchall()
        for name, value in rows:
            yield SourceFile.from_json(name, value)

    def put_sources(self, sources: Sequence[SourceFile]) -> None:
        """Write what became of files, in place of what was written before."""
        rows = [[document_key(one.id), replace_nul(one.id), one.to_json()] for one in sources]
        with self.database.writing() as cursor:
            cursor.executemany(
                "INSERT INTO sources VALUES (%s, %s, %s) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                rows,
            )

    def delete_sources(self, ids: Sequence[str]) -> None:
        """Forget files."""
        with self.database.writing() as cursor:
            cursor.execute("DELETE FROM sources WHERE key = ANY(%s)", [_keys(ids)])

    # --- documents -------------------------------------------------------------------------------

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Write documents in one transaction, in place of those with the same ids."""
        kept = [one for one in {one.id: one for one in documents}.values() if one.windows]
        if not kept:
            return
        language = self._need().get("language")
        counted = [(one, pgrows.document_terms(one, language)) for one in kept]
        with self.database.writing() as cursor:
            _remove(cursor, [one.id for one in kept])
            _copy(cursor, "documents", pgrows.DOCUMENT, (pgrows.document_row(*x) for x in counted))
            _copy(
                cursor,
                "words",
                ["term", "document", "often", "length"],
                (row for pair in counted for row in pgrows.word_rows(*pair)),
            )
            windows = (row for one in kept for row in pgrows.window_rows(one))
            _copy(cursor, "windows", pgrows.WINDOW, windows)
            length = sum(sum(found.values()) for _, found in counted)
            _count(cursor, len(kept), length)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove documents in one transaction."""
        with self.database.writing() as cursor:
            _remove(cursor, ids)

    def known(self, ids: Sequence[str]) -> dict[str, DocumentHashes]:
        """Return the hashes of those documents that are there."""
        rows = self.database.rows(
            "SELECT id, content, row FROM documents WHERE key = ANY(%s)", _keys(ids)
        )
        return {name: DocumentHashes(content, row) for name, content, row in rows}

    def entries(self) -> Iterator[tuple[str, DocumentHashes]]:
        """Yield the id and the hashes of every document."""
        for name, content, row in self.database.rows("SELECT id, content, row FROM documents"):
            yield name, DocumentHashes(content, row)

    def with_content(self, hashes: Sequence[str]) -> dict[str, StoredDocument]:
        """Return, for each content hash that is there, one document that has it."""
        rows = self.database.rows(
            "SELECT content, min(id) FROM documents WHERE content = ANY(%s) GROUP BY content",
            list(hashes),
        )
        return {one.content: one for one in self.fetch([name for _, name in rows]).values()}

    def fetch(self, ids: Sequence[str]) -> dict[str, StoredDocument]:
        """Return those documents that are there, whole."""
        with self.database.reading() as cursor:
            return _fetched(cursor, ids)

    def documents_of(self, sources: Sequence[str]) -> dict[str, list[str]]:
        """Return the ids of the documents of files."""
        found: dict[str, list[str]] = {source: [] for source in sources}
        given = {replace_nul(source): source for source in sources}
        statement = "SELECT source, id FROM documents WHERE source = ANY(%s)"
        for source, name in self.database.rows(statement, list(given)):
            found[given[source]].append(name)
        return found

    def count(self, where: Filter | None = None) -> int:
        """Return how many documents fit."""
        if where is None:
            return int(self.database.rows("SELECT documents FROM totals")[0][0])
        text, values = where_sql(where, "d")
        return int(
            self.database.rows(f"SELECT count(*) FROM documents d WHERE {text}", *values)[0][0]
        )

    def scan(self) -> Iterator[StoredDocument]:
        """Yield every document as it was when the scan began, by id."""
        with self.database.reading() as cursor:
            cursor.execute('SELECT id FROM documents ORDER BY id COLLATE "C"')
            names = [row[0] for row in cursor.fetchall()]
            for start in range(0, len(names), PART):
                yield from _fetched(cursor, names[start : start + PART]).values()

    def sample(self, count: int) -> list[StoredDocument]:
        """Return so many documents from all over the store, the same ones each time."""
        names = [row[0] for row in self.database.rows("SELECT id FROM documents ORDER BY key")]
        chosen = names[:: max(1, len(names) // max(1, count))][: max(0, count)]
        return list(self.fetch(chosen).values())

    def outline(
        self, where: Filter | None = None, ids: Sequence[str] | None = None
    ) -> Iterator[DocumentHeader]:
        """Yield the documents that fit, without texts; of these ids only where there are some."""
        text, values = where_sql(where, "d")
        if ids is not None:
            text, values = f"{text} AND d.key = ANY(%s)", [*values, _keys(ids)]
        rows = self.database.rows(
            f"SELECT id, title, metadata FROM documents d WHERE {text}", *values
        )
        return (DocumentHeader(name, title, json.loads(metadata)) for name, title, metadata in rows)

    def portraits(self, ids: Sequence[str]) -> Iterator[DocumentSummary]:
        """Yield the portraits of those documents that are there."""
        for start in range(0, len(ids), 2048):
            rows = self.database.rows(
                "SELECT id, vector_send(avg(w.vector)), min(left(text, %s)), min(metadata) "
                "FROM documents d JOIN windows w ON w.document = d.key "
                "WHERE d.key = ANY(%s) GROUP BY d.key",
                HEAD_CHARACTERS,
                _keys(ids[start : start + 2048]),
            )
            for name, mean, head, metadata in rows:
                vector = mean_direction(pgrows.parse_vector(mean)[None])
                yield DocumentSummary(name, vector, head, json.loads(metadata))

    def revision(self) -> int:
        """Return a number that changes with every commit."""
        return int(self.database.rows("SELECT revision FROM totals")[0][0])

    # --- search ----------------------------------------------------------------------------------

    def dense(
        self,
        query: Floats,
        k: int,
        where: Filter | None,
        *,
        exact: bool = False,
    ) -> ScoredIds:
        """Return the k documents closest to a vector (d,); exact looks at every one."""
        settings = self._need()
        width, short = settings["dimension"], settings.get("first_pass")
        indexed = schema.dense_index(width, short)
        asked = pgrows.vector_literal(query)
        if exact or indexed is None:
            return self._closest(asked, k, where, None)
        if short:
            near = f"{indexed} <=> subvector(%s::vector, 1, {short})::halfvec({short})"
            return self._closest(asked, k * OVERSAMPLING, where, near)[:k]
        return self._closest(asked, k, where, f"{indexed} <#> %s::halfvec({width})")

    def _closest(self, asked: str, k: int, where: Filter | None, near: str | None) -> ScoredIds:
        """Score windows, all that fit or the nearest of an index, until there are k documents."""
        text, values = where_sql(where, "w")
        wanted = max(k, MIN_CANDIDATES)
        while True:
            order, limits = (f"ORDER BY {near} LIMIT %s", [asked, wanted]) if near else ("", [])
            found, looked = self._best(
                f"SELECT document, -(vector <#> %s::vector) AS score FROM windows w "
                f"WHERE {text} {order}",
                [asked, *values, *limits],
                k,
            )
            if near is None or len(found) >= k or looked < wanted or wanted >= MAX_CANDIDATES:
                return found
            wanted = min(MAX_CANDIDATES, wanted * 4)

    def _best(self, near: str, values: list[Any], k: int) -> tuple[ScoredIds, int]:
        """Return the best k documents of a statement on windows, and how many windows it gave."""
        with self.database.reading() as cursor:
            tune(cursor, k)
            statement = f"WITH near AS MATERIALIZED ({near}), {WINDOWS}"
            cursor.execute(statement, [*values, k, k])
            rows = cursor.fetchall()
        return [(name, float(score)) for name, score, _ in rows], rows[0][2] if rows else 0

    def lexical(self, query: str, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by BM25."""
        found = term_counts(query.replace("\0", " "), self._need().get("language"))
        if not found:
            return []
        text, values = where_sql(where, "d")
        only = f"WHERE w.document IN (SELECT key FROM documents d WHERE {text})" if where else ""
        asked = [list(found), list(map(float, found.values()))]
        rows = self.database.rows(LEXICAL.format(where=only), *asked, *values, k, k)
        return [(name, float(score)) for name, score, _ in rows]

    def sparse(self, query: SparseVector, k: int, where: Filter | None) -> ScoredIds:
        """Return the k best documents by learned sparse weights.

        An index of them looks at the heaviest weights only; what it finds is scored by all.
        """
        heaviest = pgrows.sparse_literal(query, schema.SPARSE_INDEXED)
        if heaviest is None:
            return []
        wanted = max(OVERSAMPLING * k, MIN_CANDIDATES)
        order = "ORDER BY coalesce(heaviest, sparse) <#> %s::sparsevec LIMIT %s"
        if self.database.has(schema.WEIGHTS):
            found = self._weighed(query, k, where, order, [heaviest, wanted])
            if where is None or len(found) == k:
                return found
        return self._weighed(query, k, where, "", [])

    def _weighed(
        self, query: SparseVector, k: int, where: Filter | None, order: str, limits: list[Any]
    ) -> ScoredIds:
        text, values = where_sql(where, "w")
        asked = pgrows.sparse_literal(query, schema.SPARSE_KEPT)
        found, _ = self._best(
            "SELECT document, -(sparse <#> %s::sparsevec) AS score FROM windows w "
            f"WHERE sparse IS NOT NULL AND {text} {order}",
            [asked, *values, *limits],
            k,
        )
        return [(name, score) for name, score in found if score > 0]

    # --- upkeep ----------------------------------------------------------------------------------

    def optimize(self) -> list[str]:
        """Make indexes of vectors in an index that is large enough; tell what cannot be."""
        settings = self._need()
        self.database.analyze()
        width, short = settings["dimension"], settings.get("first_pass")
        windows = int(self.database.rows("SELECT count(*) FROM windows")[0][0])
        if windows < schema.INDEX_FROM:
            return []
        failed = []
        for name, statement in schema.index_statements(width, short).items():
            try:
                self.database.make_index(name, statement)
            except (OSError, InputError) as error:  # an index that fails must not lose documents
                failed.append(f"{name}: {error}")
        if schema.dense_index(width, short) is None:
            failed.append(
                f"{schema.VECTORS}: vectors of {width} dimensions are compared one by one; "
                f"pgvector indexes up to {schema.HALF_WIDTH} (--first-pass N)"
            )
        return failed

    def health(self) -> StoreHealth:
        """Return the state of the store."""
        with self.database.reading() as cursor:
            cursor.execute(
                "SELECT relname, pg_total_relation_size(oid) FROM pg_class WHERE relkind = 'r' "
                "AND relnamespace = to_regnamespace(%s)",
                [self.database.schema],
            )
            size = sum(row[1] for row in cursor.fetchall())
            cursor.execute("SELECT count(*) FROM windows")
            windows = int(cursor.fetchone()[0])
            cursor.execute(
                "SELECT relname FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
                "WHERE indisvalid AND relnamespace = to_regnamespace(%s) AND relname = ANY(%s)",
                [self.database.schema, [schema.VECTORS, schema.WEIGHTS]],
            )
            kinds = {row[0]: "HNSW" for row in cursor.fetchall()}
            cursor.execute("SELECT documents, revision FROM totals")
            documents, revision = cursor.fetchone()
        kinds["words"] = "table of postings"
        unindexed = dict.fromkeys(kinds, 0)  # PostgreSQL keeps its indexes with every commit
        return StoreHealth(documents, windows, size, 1, unindexed, kinds, {"revision": revision})

    # --- PostgreSQL ------------------------------------------------------------------------------

    def _need(self) -> dict[str, Any]:
        """Return the settings, which never change."""
        if self._known is None:
            self._known = self.settings()
        if self._known is None:
            raise InputError(f"`{self.uri}` holds no index")
        return self._known

    def close(self) -> None:
        """Close the connections that nobody uses."""
        self.database.close()


def _fetched(cursor: Any, ids: Sequence[str]) -> dict[str, StoredDocument]:
    keys = _keys(ids)
    cursor.execute(
        f"SELECT document, {pgrows.READ_WINDOW} FROM windows WHERE document = ANY(%s) "
        "ORDER BY document, number",
        [keys],
    )
    windows: dict[Any, list[Any]] = {}
    for own, *row in cursor.fetchall():
        windows.setdefault(own, []).append(row)
    cursor.execute(
        f"SELECT key, {pgrows.READ_DOCUMENT} FROM documents WHERE key = ANY(%s) "
        'ORDER BY id COLLATE "C"',
        [keys],
    )
    found = (pgrows.document_from_row(row, windows[own]) for own, *row in cursor.fetchall())
    return {one.id: one for one in found}


def _remove(cursor: Any, ids: Sequence[str]) -> None:
    cursor.execute("DELETE FROM documents WHERE key = ANY(%s) RETURNING length", [_keys(ids)])
    gone = [row[0] for row in cursor.fetchall()]
    _count(cursor, -len(gone), -sum(gone))


def _count(cursor: Any, documents: int, words: int) -> None:
    cursor.execute(
        "UPDATE totals SET documents = documents + %s, words = words + %s, revision = revision + 1",
        [documents, words],
    )


def _copy(cursor: Any, table: str, columns: Sequence[str], rows: Iterator[list[Any]]) -> None:
    with cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def tune(cursor: Any, wanted: int) -> None:
    """Let an index of vectors look at enough, and go on where a filter leaves too few."""
    cursor.execute(
        "SELECT set_config('hnsw.iterative_scan', 'relaxed_order', true), "
        "set_config('hnsw.ef_search', %s, true)",
        [str(min(1000, max(MIN_CANDIDATES, wanted)))],
    )


def _keys(ids: Sequence[str]) -> list[Any]:
    return [document_key(name) for name in ids]
