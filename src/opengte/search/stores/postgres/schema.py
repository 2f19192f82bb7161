"""Tables of an index in PostgreSQL, and their indexes.

A document is known by the first half of the SHA-256 of its id: ids are as long as paths, keys of an
index are not. Words and windows belong to a document and go with it.
"""

import hashlib
import uuid
from typing import Any

from opengte.errors import InputError

INDEX_FROM = 10_000  # windows below which looking at every vector is fast enough
HALF_WIDTH = 4_000  # dimensions that pgvector's HNSW takes of half-precision vectors
SPARSE_WIDTH = 1_000_000_000  # of a sparse vector: more than any vocabulary has
SPARSE_INDEXED = 1_000  # weights that pgvector's HNSW takes of a sparse vector
SPARSE_KEPT = 16_000  # weights that a sparse vector holds
PGVECTOR = (0, 8)  # the first that goes on searching where a filter left too few
VECTORS, WEIGHTS = "windows_vector", "windows_sparse"

TABLES = """
CREATE TABLE settings (value text NOT NULL);
CREATE TABLE totals (documents bigint NOT NULL, words bigint NOT NULL, revision bigint NOT NULL);
INSERT INTO totals VALUES (0, 0, 0);
CREATE TABLE sources (key uuid PRIMARY KEY, id text NOT NULL, value text NOT NULL);
CREATE TABLE documents (
  key uuid PRIMARY KEY,
  id text NOT NULL,
  source text NOT NULL,
  line bigint,
  title text NOT NULL,
  text text NOT NULL,
  length integer NOT NULL,
  content text NOT NULL,
  row text NOT NULL,
  signature bytea NOT NULL,
  truncated boolean NOT NULL,
  sections text NOT NULL,
  metadata text NOT NULL,
  warnings text NOT NULL,
  indexed double precision NOT NULL,
  texts jsonb NOT NULL,
  numbers jsonb NOT NULL
);
CREATE INDEX ON documents USING hash (source);
CREATE INDEX ON documents USING hash (content);
CREATE INDEX ON documents USING gin (texts jsonb_path_ops);
CREATE INDEX ON documents USING gin (numbers jsonb_path_ops);
CREATE TABLE words (
  term text NOT NULL,
  document uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
  often integer NOT NULL,
  length integer NOT NULL,
  PRIMARY KEY (term, document) INCLUDE (often, length)
);
CREATE INDEX ON words (document);
CREATE TABLE windows (
  document uuid NOT NULL REFERENCES documents ON DELETE CASCADE,
  number integer NOT NULL,
  first integer NOT NULL,
  last integer NOT NULL,
  tokens integer NOT NULL,
  vector vector({width}) NOT NULL,
  bounds bytea NOT NULL,
  scales bytea NOT NULL,
  spans bytea NOT NULL,
  sparse sparsevec({sparse}),
  heaviest sparsevec({sparse}),
  texts jsonb NOT NULL,
  numbers jsonb NOT NULL,
  PRIMARY KEY (document, number)
);
ALTER TABLE windows ALTER COLUMN vector SET STORAGE PLAIN
"""


def create_tables(cursor: Any, schema: str, width: int) -> None:
    """Make the schema and its tables, unless they are there."""
    cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
    cursor.execute("SELECT to_regclass(%s) IS NOT NULL", [f"{schema}.settings"])
    if not cursor.fetchone()[0]:
        plain = width <= 1_500  # a row lies in one page of 8 KiB, its vector not aside
        made = TABLES.format(width=width, sparse=SPARSE_WIDTH)
        cursor.execute(made if plain else made.rpartition(";")[0])


def require_pgvector(cursor: Any, place: str) -> None:
    """Make pgvector available; InputError where that cannot be, or it is too old."""
    cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    found = cursor.fetchone()
    if found is None:
        cursor.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
        if cursor.fetchone() is None:
            raise InputError(f"the server of `{place}` has no pgvector; install that extension")
        cursor.execute("CREATE EXTENSION IF NOT EXISTS vector SCHEMA public")
        cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        found = cursor.fetchone()
    version = tuple(map(int, found[0].split(".")[:2]))
    if version < PGVECTOR:
        raise InputError(f"`{place}` has pgvector {found[0]}, expected 0.8 or newer")


def dense_index(width: int, first_pass: int | None) -> str | None:
    """Return the expression that an index of vectors is on, None where there can be none.

    Half precision: half the memory, and what it finds is scored by the true vectors.
    """
    indexed = first_pass or width
    if indexed > HALF_WIDTH:
        return None
    if first_pass:
        return f"(subvector(vector, 1, {first_pass})::halfvec({first_pass}))"
    return f"(vector::halfvec({width}))"


def index_statements(width: int, first_pass: int | None) -> dict[str, str]:
    """Return what makes each index of vectors; readers and writers go on meanwhile."""
    statements = {}
    dense = dense_index(width, first_pass)
    if dense:
        kind = "halfvec_cosine_ops" if first_pass else "halfvec_ip_ops"
        statements[VECTORS] = (
            f"CREATE INDEX CONCURRENTLY {VECTORS} ON windows USING hnsw ({dense} {kind})"
        )
    statements[WEIGHTS] = (
        f"CREATE INDEX CONCURRENTLY {WEIGHTS} ON windows USING hnsw "
        "((coalesce(heaviest, sparse)) sparsevec_ip_ops)"
    )
    return statements


def document_key(name: str) -> uuid.UUID:
    """Return the key of an id."""
    written = replace_nul(name).encode("utf-8", "surrogatepass")
    return uuid.UUID(bytes=hashlib.sha256(written).digest()[:16])


def replace_nul(text: str) -> str:
    """Return a text without the one character that PostgreSQL does not take, as long as before."""
    return text.replace("\0", "\ufffd")
