"""Embed whole files: bounded memory, resumable runs, atomic output."""

from opengte.bulk.job import embed_files
from opengte.bulk.sources import RowSource
from opengte.bulk.types import (
    EmbeddedRows,
    EmbedProgress,
    FieldNames,
    InvalidRow,
    OutputSchema,
    TextRow,
)

__all__ = [
    "EmbedProgress",
    "EmbeddedRows",
    "FieldNames",
    "InvalidRow",
    "OutputSchema",
    "RowSource",
    "TextRow",
    "embed_files",
]
