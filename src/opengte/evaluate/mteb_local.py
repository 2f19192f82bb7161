"""mteb tasks whose data come from a folder instead of the Hub; the scoring stays mteb's.

The folder has one subfolder a dataset: JSON Lines or TSV, gzip or not, laid out as
docs/guides/evaluate.md describes. A task gets exactly the columns that mteb's own loader would give
it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from opengte.errors import InputError
from opengte.evaluate import data_files

Split = dict[str, list[Any]]  # column -> values
Subsets = dict[str, dict[str, Split]]  # subset -> split -> columns


@dataclass(frozen=True)
class LocalTask:
    """Where a task's data are in the folder, and how they become mteb's columns."""

    folder: str
    read: Callable[[Path], Subsets]
    retrieval: bool = False


def local_tasks(data: Path) -> list[str]:
    """Return the tasks whose data a folder has, in a fixed order."""
    if not data.is_dir():
        raise InputError(f"data is `{data}`, expected a folder of datasets")
    return [name for name, source in LOCAL_TASKS.items() if (data / source.folder).is_dir()]


def has_task(task: str, data: Path) -> bool:
    """Return whether a folder has the data of a task."""
    return task in LOCAL_TASKS and (data / LOCAL_TASKS[task].folder).is_dir()


def load_task_data(task: Any, data: Path) -> Any:
    """Give an mteb task its data from a folder, with the subsets and splits that are there."""
    source = LOCAL_TASKS[task.metadata.name]
    subsets = source.read(data / source.folder)
    wanted = {name: subsets[name] for name in task.hf_subsets if name in subsets}
    if not wanted:
        raise InputError(
            f"`{data / source.folder}` has the subsets {', '.join(subsets)}, none of which "
            f"{task.metadata.name} uses: {', '.join(task.hf_subsets)}"
        )
    found = {split for splits in wanted.values() for split in splits}
    task.hf_subsets = list(wanted)
    task.filter_eval_splits([split for split in task.eval_splits if split in found])
    if not source.retrieval:
        task.dataset = _datasets(task, wanted)
        task.dataset_transform()
    else:
        task.dataset = {name: _retrieval(splits) for name, splits in wanted.items()}
    task.data_loaded = True
    return task


def _datasets(task: Any, subsets: Subsets) -> Any:
    """Return what mteb's loader keeps: by subset where a task has languages, else by split."""
    from datasets import Dataset, DatasetDict

    made = {
        name: DatasetDict({split: Dataset.from_dict(part) for split, part in splits.items()})
        for name, splits in subsets.items()
    }
    return DatasetDict(made) if task.metadata.is_multilingual else made["default"]


def _retrieval(splits: dict[str, Split]) -> dict[str, Any]:
    from datasets import Dataset

    return {
        split: {
            "corpus": Dataset.from_list(part["corpus"]),
            "queries": Dataset.from_list(part["queries"]),
            "relevant_docs": part["qrels"][0],
            "top_ranked": None,
        }
        for split, part in splits.items()
    }


def _columns(found: Iterable[tuple[int, data_files.Record]], path: Path, **names: str) -> Split:
    """Return columns under mteb's names: names maps them to those of the file."""
    columns: Split = {name: [] for name in names}
    for number, row in found:
        for name, column in names.items():
            if column not in row:
                raise InputError(
                    f"`{path}`:{number} has the columns {', '.join(row)}; expected {column}"
                )
            columns[name].append(row[column])
    if not next(iter(columns.values())):
        raise InputError(f"`{path}` is empty: expected rows of {', '.join(names.values())}")
    return columns


def _splits(*splits: str, **names: str) -> Callable[[Path], Subsets]:
    """Return a reader of `<split>.jsonl`, for a task without languages."""

    def read(folder: Path) -> Subsets:
        paths = {split: folder / f"{split}.jsonl" for split in splits}
        return {
            "default": {
                split: _columns(data_files.read_records(path), path, **names)
                for split, path in paths.items()
            }
        }

    return read


def _languages(*splits: str, **names: str) -> Callable[[Path], Subsets]:
    """Return a reader of `<language>.<split>.jsonl`."""

    def read(folder: Path) -> Subsets:
        found: Subsets = {}
        for path in sorted(folder.glob("*.jsonl*")):
            language, split = path.name.split(".")[:2]
            if split in splits:
                plain = folder / f"{language}.{split}.jsonl"
                columns = _columns(data_files.read_records(plain), plain, **names)
                found.setdefault(language, {})[split] = columns
        return found

    return read


def _clusters(*parts: str) -> Callable[[Path], Subsets]:
    """Return a reader of news as mteb clusters them: five runs of rows a language, in file order.

    The rows are sorted by topic, so a run has only two or three. Texts are the parts, joined.
    """

    def read(folder: Path) -> Subsets:
        found = {}
        names = {part: part for part in parts} | {"labels": "label"}
        for language, splits in _languages("test", **names)(folder).items():
            split = splits["test"]
            texts = [" ".join(cells) for cells in zip(*(split[p] for p in parts), strict=True)]
            columns = {"sentences": _runs(texts), "labels": _runs(split["labels"])}
            found[language] = {"test": columns}
        return found

    return read


def _runs(values: list[str], count: int = 5) -> list[list[str]]:
    """Cut a list into runs of equal length, the first ones longer by one where it must be."""
    short, longer = divmod(len(values), count)
    ends = [place * short + min(place, longer) for place in range(count + 1)]
    return [values[start:end] for start, end in pairwise(ends)]


def _topics(folder: Path) -> Subsets:
    """Read SIB-200: one table, a column a language, the rows marked by split."""
    path = folder / "all.tsv"
    found = [row for _, row in data_files.read_table(path)]
    if not found:
        raise InputError(f"`{path}` is empty: expected rows of split, index_id, category, ...")
    languages = [name for name in found[0] if name not in ("split", "index_id", "category")]
    parts = {"train": "train", "validation": "dev", "test": "test"}
    chosen = {
        split: [row for row in found if row["split"] == name] for split, name in parts.items()
    }
    return {
        language: {
            split: {
                "index_id": [int(row["index_id"]) for row in part],
                "category": [row["category"] for row in part],
                "text": [row[language] for row in part],
            }
            for split, part in chosen.items()
        }
        for language in languages
    }


def _translations(folder: Path) -> Subsets:
    """Read Tatoeba: one table of all pairs of languages."""
    found: Subsets = {}
    for _, row in data_files.read_table(folder / "test.tsv"):
        split = found.setdefault(row["hf_subset"], {"test": {"sentence1": [], "sentence2": []}})
        split["test"]["sentence1"].append(row["sentence1"])
        split["test"]["sentence2"].append(row["sentence2"])
    return found


def _beir(split: str) -> Callable[[Path], Subsets]:
    """Return a reader of `corpus.jsonl`, `queries.jsonl` and `qrels/test.tsv`."""

    def read(folder: Path) -> Subsets:
        qrels: dict[str, dict[str, int]] = {}
        for _, row in data_files.read_table(folder / "qrels" / "test.tsv"):
            qrels.setdefault(row["query-id"], {})[row["corpus-id"]] = int(row["score"])
        corpus = [
            {"id": row["_id"], "title": row.get("title", ""), "text": row["text"]}
            for _, row in data_files.read_records(folder / "corpus.jsonl")
        ]
        queries = [
            {"id": row["_id"], "text": row["text"]}
            for _, row in data_files.read_records(folder / "queries.jsonl")
            if row["_id"] in qrels
        ]
        return {"default": {split: {"corpus": corpus, "queries": queries, "qrels": [qrels]}}}

    return read


_PAIR = {"sentence1": "sentence1", "sentence2": "sentence2"}

LOCAL_TASKS: dict[str, LocalTask] = {
    "STSBenchmark": LocalTask("STSBenchmark", _splits("test", **_PAIR, score="score")),
    "STS13": LocalTask("STS13", _splits("test", **_PAIR, score="score")),
    "SICK-R": LocalTask("SICK-R", _splits("test", **_PAIR, score="score")),
    "STSBenchmarkMultilingualSTS": LocalTask(
        "STSb-multi", _languages("dev", "test", **_PAIR, similarity_score="score")
    ),
    "STSB": LocalTask("STSB-zh", _splits("validation", "test", **_PAIR, score="score")),
    "AFQMC": LocalTask("AFQMC", _splits("validation", **_PAIR, score="label")),
    "QBQTC": LocalTask("QBQTC", _splits("test", **_PAIR, score="label")),
    "Ocnli": LocalTask(
        "OCNLI", _splits("validation", sent1="sentence1", sent2="sentence2", labels="label")
    ),
    "Banking77Classification": LocalTask(
        "Banking77", _splits("train", "test", text="text", label="label")
    ),
    "SIB200Classification": LocalTask("SIB200", _topics),
    "SIB200ClusteringS2S": LocalTask("SIB200", _topics),
    "MasakhaNEWSClusteringS2S": LocalTask("MasakhaNEWS", _clusters("headline")),
    "MasakhaNEWSClusteringP2P": LocalTask("MasakhaNEWS", _clusters("headline", "text")),
    "SciFact": LocalTask("SciFact", _beir("test"), retrieval=True),
    "LEMBQMSumRetrieval": LocalTask("LEMBQMSum", _beir("test"), retrieval=True),
    "Tatoeba": LocalTask("Tatoeba", _translations),
}
