"""Small training data, a tokenizer for it, and what a prepared folder holds, read the slow way."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from opengte.data import Dataset, DatasetSource
from opengte.data.preparation.prepare import PreparationResult, prepare
from opengte.data.preparation.source_tokenizer import SourceTokenizer
from opengte.data.reading.sources import SourceSpec
from opengte.data.shards.dataset import TextRefs
from opengte.tokenization import Prompts, Tokenizer, load_tokenizer
from tests.support.tokenizers_for_tests import WORDS, save_wordpiece


def tokenizer(folder: Path, save: Any = save_wordpiece) -> Tokenizer:
    save(folder / "tokenizer")
    return load_tokenizer(folder / "tokenizer")


def write_lines(path: Path, rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def words(seed: int, count: int) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def pairs(count: int, negatives: int = 0) -> list[dict[str, Any]]:
    rows = []
    for i in range(count):
        row: dict[str, Any] = {"query": f"what is {i}", "positive": f"{words(i, 1 + i % 9)} {i}"}
        if negatives:
            row["negative"] = [f"dog {i} {j}" for j in range(i % (negatives + 1))]
        rows.append(row)
    return rows


def encoding(folder: Path, **options: Any) -> SourceTokenizer:
    settings = {"prompts": Prompts(query="query "), "query_tokens": 24, "document_tokens": 32}
    return SourceTokenizer(
        options.pop("tokenizer", None) or tokenizer(folder), **(settings | options)
    )


def made(folder: Path, *specs: SourceSpec, **options: Any) -> tuple[Dataset, PreparationResult]:
    own = options.pop("encoding", None) or encoding(folder)
    result = prepare(specs, folder / "out", own, **options)
    return Dataset.open(folder / "out"), result


def dataset(folder: Path, rows: Any, name: str = "rows", **switches: Any) -> Dataset:
    path = write_lines(folder / f"{name}.jsonl", rows)
    return made(folder, SourceSpec(name, (path,), **switches))[0]


def text_ids(source: DatasetSource, slots: TextRefs) -> list[list[int]]:
    uses = zip(slots.shards.tolist(), slots.texts.tolist(), strict=True)
    return [source.shards[shard].text_ids(text).tolist() for shard, text in uses]


def rows_of(source: DatasetSource) -> list[tuple[list[int], list[list[int]], list[list[int]]]]:
    """Return the token ids of every row: query, positives, negatives."""
    found = []
    for row in range(source.rows):
        own = source.get([row])
        parts = (own.queries, own.positives, own.negatives)
        query, positives, negatives = (text_ids(source, slots) for slots in parts)
        found.append((query[0], positives, negatives))
    return found
