"""mteb tasks whose data come from a folder instead of the Hub; the scoring stays mteb's.

The folder has one subfolder a dataset: JSON Lines or TSV, gzip or not, laid out as
docs/guides/evaluate.md describes. A task gets exactly the columns that mteb's own loader would give
it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from opengte.errors import InputError
from opengte.evaluate import data_files
from opengte.evaluate.mteb_folders import (
    RETRIEVAL,
    Split,
    Subsets,
    is_task_folder,
    read_beir,
    read_columns,
    read_task_folder,
)


@dataclass(frozen=True)
class LocalTask:
    """Where a task's data are in the folder, and how they become mteb's columns."""

    folder: str
    read: Callable[[Path], Subsets]


def local_tasks(data: Path) -> list[str]:
    """Return the tasks whose data a folder has, in a fixed order."""
    if not data.is_dir():
        raise InputError(f"data is `{data}`, expected a folder of datasets")
    known = [name for name, source in LOCAL_TASKS.items() if (data / source.folder).is_dir()]
    used = {LOCAL_TASKS[name].folder for name in known}
    others = sorted(path.name for path in data.iterdir() if is_task_folder(path))
    return [*known, *(name for name in others if name not in used)]


def has_task(task: str, data: Path) -> bool:
    """Return whether a folder has the data of a task."""
    if task in LOCAL_TASKS and (data / LOCAL_TASKS[task].folder).is_dir():
        return True
    return is_task_folder(data / task)


def load_task_data(task: Any, data: Path) -> Any:
    """Give an mteb task its data from a folder, with the subsets and splits that are there."""
    name = task.metadata.name
    source = LOCAL_TASKS.get(name)
    folder = data / (name if source is None else source.folder)
    subsets = read_task_folder(task, folder) if source is None else source.read(folder)
    wanted = {name: subsets[name] for name in task.hf_subsets if name in subsets}
    if not wanted:
        raise InputError(
            f"`{folder}` has the subsets {', '.join(subsets)}, none of which "
            f"{task.metadata.name} uses: {', '.join(task.hf_subsets)}"
        )
    found = {split for splits in wanted.values() for split in splits}
    task.hf_subsets = list(wanted)
    task.filter_eval_splits([split for split in task.eval_splits if split in found])
    if task.metadata.type != RETRIEVAL:
        task.dataset = _datasets(task, wanted)
        if source is not None:
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


def _splits(*splits: str, **names: str) -> Callable[[Path], Subsets]:
    """Return a reader of `<split>.jsonl`, for a task without languages."""

    def read(folder: Path) -> Subsets:
        paths = {split: folder / f"{split}.jsonl" for split in splits}
        return {"default": {split: read_columns(path, **names) for split, path in paths.items()}}

    return read


def _languages(*splits: str, **names: str) -> Callable[[Path], Subsets]:
    """Return a reader of `<language>.<split>.jsonl`."""

    def read(folder: Path) -> Subsets:
        found: Subsets = {}
        for path in sorted(folder.glob("*.jsonl*")):
            language, split = path.name.split(".")[:2]
            if split in splits:
                plain = folder / f"{language}.{split}.jsonl"
                columns = read_columns(plain, **names)
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

    return lambda folder: {"default": {split: read_beir(folder, split, "test")}}


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
    "SciFact": LocalTask("SciFact", _beir("test")),
    "LEMBQMSumRetrieval": LocalTask("LEMBQMSum", _beir("test")),
    "Tatoeba": LocalTask("Tatoeba", _translations),
}
