"""Retrieval datasets: documents, queries and relevance judgements, checked before any encoding."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from opengte.errors import InputError
from opengte.evaluate import data_files

Qrels = dict[str, dict[str, int]]  # query id -> document id -> relevance > 0
TABLES = (".csv", ".tsv")


@dataclass(frozen=True, eq=False)
class RetrievalDataset:
    """Documents and queries by id, and the relevant documents of each query.

    segments maps some queries to a group; notes count the rows that were left out, with reasons.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    qrels: Qrels
    segments: Mapping[str, str]
    notes: tuple[str, ...]


@dataclass
class _Notes:
    """Counted warnings, each with its first example."""

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, what: str, example: str) -> None:
        self.counts[what] += 1
        self.first.setdefault(what, example)

    def lines(self) -> tuple[str, ...]:
        return tuple(
            f"{what}: {count:,}, the first: {self.first[what]}"
            for what, count in self.counts.items()
        )


def load_dataset(
    path: Path,
    *,
    split: str = "test",
    columns: tuple[str, str] | None = None,
    segment: str | None = None,
) -> RetrievalDataset:
    """Read a BEIR folder, or a CSV, TSV or JSON Lines file of questions and their documents.

    split names the file in `qrels/`; columns are the columns of question and document (default: the
    first two); segment is the column, or the field of a query, that groups queries. Raises
    InputError for missing or malformed files and for data without a usable query.

    >>> _ = Path("faq.csv").write_text("question,answer\\nWho purrs?,Cats purr.\\n")
    >>> dataset = load_dataset(Path("faq.csv"))
    >>> dataset.documents, dataset.qrels
    ({'d1': 'Cats purr.'}, {'q:Who purrs?': {'d1': 1}})
    """
    if path.is_dir():
        dataset = _beir(path, split, segment)
    elif data_files.data_file_exists(path):
        dataset = _pairs(path, columns, segment)
    else:
        raise InputError(
            f"data is `{path}`, which does not exist: expected a folder with corpus.jsonl, "
            "queries.jsonl and qrels/, or a .csv, .tsv or .jsonl file of questions and documents"
        )
    if not dataset.queries:
        raise InputError(f"`{path}` has no query with a relevant document. {_joined(dataset)}")
    return dataset


def _joined(dataset: RetrievalDataset) -> str:
    return " ".join(f"{note}." for note in dataset.notes)


def _beir(folder: Path, split: str, segment: str | None) -> RetrievalDataset:
    notes, segments = _Notes(), dict[str, str]()
    qrels_file = _qrels_file(folder, split)
    documents = _texts(folder / "corpus.jsonl", notes, None, segments)
    queries = _texts(folder / "queries.jsonl", notes, segment, segments)
    qrels = _qrels(qrels_file, documents, queries, notes)
    judged = {query: text for query, text in queries.items() if query in qrels}
    return RetrievalDataset(folder.name, documents, judged, qrels, segments, notes.lines())


def _qrels_file(folder: Path, split: str) -> Path:
    wanted = folder / "qrels" / f"{split}.tsv"
    for path in (folder / "corpus.jsonl", folder / "queries.jsonl", wanted):
        if not data_files.data_file_exists(path):
            there = sorted(file.name.split(".tsv")[0] for file in folder.glob("qrels/*.tsv*"))
            hint = f" It has qrels/ for {', '.join(there)}: choose one by --split." if there else ""
            raise InputError(
                f"`{folder}` has no {path.relative_to(folder)} (nor with .gz): expected "
                f"corpus.jsonl, queries.jsonl and qrels/{split}.tsv.{hint}"
            )
    return wanted


def _texts(
    path: Path, notes: _Notes, segment: str | None, segments: dict[str, str]
) -> dict[str, str]:
    """Read ids and texts; InputError for an id with two texts."""
    texts: dict[str, str] = {}
    for number, row in data_files.read_records(path):
        place = f"`{path.name}`:{number}"
        if not isinstance(row.get("_id"), str) or not isinstance(row.get("text"), str):
            raise InputError(f"{place} has the fields {', '.join(row)}; expected `_id` and `text`")
        key, text = row["_id"], f"{row.get('title') or ''} {row['text']}".strip()
        if texts.setdefault(key, text) != text:
            raise InputError(f"{place} gives the id {key!r} a second time, with another text")
        if segment is not None:
            segments[key] = str(_field(row, segment, place))
        if not text:
            notes.add(f"empty texts in {path.name}", key)
    if not texts:
        raise InputError(f"`{path}` is empty: expected one JSON object a line")
    return texts


def _field(row: data_files.Record, name: str, place: str) -> object:
    inner = row.get("metadata")
    found = row.get(name, inner.get(name) if isinstance(inner, dict) else None)
    if found is None:
        raise InputError(f"{place} has no field {name!r}, which --segment asks for")
    return found


def _qrels(
    path: Path, documents: Mapping[str, str], queries: Mapping[str, str], notes: _Notes
) -> Qrels:
    qrels: Qrels = {}
    judged: set[str] = set()
    for number, row in data_files.read_table(path):
        query, document, relevance = _judgement(row, f"`{path.name}`:{number}")
        judged.add(query)
        if query not in queries:
            notes.add("judgements of unknown queries left out", query)
        elif document not in documents:
            notes.add("judgements of unknown documents left out", document)
        elif relevance > 0:
            qrels.setdefault(query, {})[document] = relevance
    for query in queries:
        if query in judged and query not in qrels:
            notes.add("queries without a relevant document left out", query)
    return qrels


def _judgement(row: data_files.Record, place: str) -> tuple[str, str, int]:
    try:
        return row["query-id"], row["corpus-id"], int(row["score"])
    except KeyError:
        raise InputError(
            f"{place} has the columns {', '.join(row)}; expected a first line with query-id, "
            "corpus-id and score, tabs between"
        ) from None
    except ValueError:
        raise InputError(
            f"{place} has the score {row['score']!r}, expected a whole number"
        ) from None


def _pairs(path: Path, columns: tuple[str, str] | None, segment: str | None) -> RetrievalDataset:
    """Read questions with their relevant documents, which together form the corpus."""
    notes, numbers = _Notes(), dict[str, str]()
    documents: dict[str, str] = {}
    queries: dict[str, str] = {}
    qrels: Qrels = {}
    segments: dict[str, str] = {}
    for number, row in _rows(path):
        place = f"`{path.name}`:{number}"
        question, document = _two(row, columns, place)
        if not question.strip() or not document.strip():
            notes.add("rows with an empty question or document left out", place)
            continue
        right = numbers.setdefault(document, f"d{len(numbers) + 1}")
        documents[right] = document
        query = _query_id(queries, question, place)
        qrels.setdefault(query, {})[right] = 1
        if segment is not None:
            segments[query] = str(_field(row, segment, place))
    return RetrievalDataset(path.name, documents, queries, qrels, segments, notes.lines())


def _query_id(queries: dict[str, str], question: str, place: str) -> str:
    key = "q:" + question  # equal questions are one query with several right documents
    queries.setdefault(key, question)
    return key


def _rows(path: Path) -> Iterable[tuple[int, data_files.Record]]:
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix != ".gz"]
    suffix = suffixes[-1] if suffixes else ""
    if suffix in TABLES:
        return data_files.read_table(path, quoted=suffix == ".csv")
    if suffix in (".jsonl", ".ndjson"):
        return data_files.read_records(path)
    raise InputError(f"data is `{path}`, expected a name that ends in .csv, .tsv or .jsonl")


def _two(row: data_files.Record, columns: tuple[str, str] | None, place: str) -> tuple[str, str]:
    names = columns or tuple(row)[:2]
    if len(names) < 2 or any(not isinstance(row.get(name), str) for name in names):
        raise InputError(
            f"{place} has the columns {', '.join(row)}; expected text in "
            f"{' and '.join(names) or 'two columns'}. Name them by --columns QUESTION,DOCUMENT."
        )
    return row[names[0]], row[names[1]]
