"""All texts of files that must not be trained on, such as those of a benchmark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from opengte.data.reading.sources import list_files, read_records

# columns that hold no text; everything else that is a string counts
NO_TEXTS = frozenset(
    "id _id qid pid docid doc_id query_id corpus_id query-id corpus-id label labels label_text "
    "score scores split lang language category genre year url file source domain".split()
)


def all_texts(path: Path) -> Iterator[str]:
    """Yield all texts of a file or folder, of every column that may hold text.

    Where an object has a title and a text, also both joined, as BEIR joins them.
    """
    for file in list_files((path,)):
        for _, record in read_records(file):
            if isinstance(record, dict):
                yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        title, text = value.get("title"), value.get("text")
        if isinstance(title, str) and isinstance(text, str) and title:
            yield f"{title} {text}"
        for name, one in value.items():
            if name.lower() not in NO_TEXTS:
                yield from _strings(one)
