"""Data of any mteb task of a common type, from a folder in one layout for each type.

`NAME/SPLIT.jsonl`, or `NAME/SUBSET.SPLIT.jsonl` for a task with subsets, with the columns of the
type; a retrieval task is a BEIR folder. Rows are used as mteb scores them, after its preparation.
"""

from pathlib import Path
from typing import Any

from opengte.errors import InputError
from opengte.evaluate import data_files

Split = dict[str, list[Any]]  # column -> values
Subsets = dict[str, dict[str, Split]]  # subset -> split -> columns

COLUMNS = {
    "STS": ("sentence1", "sentence2", "score"),
    "PairClassification": ("sentence1", "sentence2", "label"),
    "Classification": ("text", "label"),
}
RETRIEVAL = "Retrieval"
LAYOUT = (
    "NAME/SPLIT.jsonl or NAME/SUBSET.SPLIT.jsonl for STS, pair classification and classification, "
    "NAME/corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv for retrieval"
)


def is_task_folder(folder: Path) -> bool:
    """Return whether a folder has files of one of the layouts."""
    return folder.is_dir() and any(folder.glob("*.jsonl*"))


def read_task_folder(task: Any, folder: Path) -> Subsets:
    """Return the data of an mteb task, under the names of columns that it uses.

    Raises InputError for a type without a layout, and for files that are missing or malformed.
    """
    kind = task.metadata.type
    if kind not in (*COLUMNS, RETRIEVAL):
        raise InputError(
            f"{task.metadata.name} is of type {kind}; a folder can have tasks of the types "
            f"{', '.join((*COLUMNS, RETRIEVAL))}"
        )
    splits = list(task.eval_splits)
    if kind == RETRIEVAL:
        return {"default": {split: read_beir(folder, split) for split in splits}}
    if kind == "Classification":
        splits = list(dict.fromkeys([task.train_split, *splits]))
    names = dict(zip(_names(task, kind), COLUMNS[kind], strict=True))
    several = task.metadata.is_multilingual
    found: Subsets = {}
    for subset in task.hf_subsets if several else ["default"]:
        prefix = f"{subset}." if several else ""
        paths = {split: folder / f"{prefix}{split}.jsonl" for split in splits}
        if not several or any(map(data_files.data_file_exists, paths.values())):
            found[subset] = {split: read_columns(path, **names) for split, path in paths.items()}
    if not found:
        raise InputError(
            f"`{folder}` has no file SUBSET.SPLIT.jsonl of {', '.join(task.hf_subsets)}"
        )
    return found


def _names(task: Any, kind: str) -> tuple[str, ...]:
    """Return what a task calls the columns of its type."""
    if kind == "STS":
        return (*task.column_names, "score")
    if kind == "Classification":
        return task.input_column_name, task.label_column_name
    return task.input1_column_name, task.input2_column_name, task.label_column_name


def read_columns(path: Path, **names: str) -> Split:
    """Return columns of a file of records under other names: names maps them to the file's."""
    columns: Split = {name: [] for name in names}
    for number, row in data_files.read_records(path):
        for name, column in names.items():
            if column not in row:
                raise InputError(
                    f"`{path}`:{number} has the columns {', '.join(row)}; expected {column}"
                )
            columns[name].append(row[column])
    if not next(iter(columns.values())):
        raise InputError(f"`{path}` is empty: expected rows of {', '.join(names.values())}")
    return columns


def read_beir(folder: Path, split: str, qrels_name: str = "") -> Split:
    """Return a split of a BEIR folder: corpus, the queries with judgements, and these."""
    qrels: dict[str, dict[str, int]] = {}
    for _, row in data_files.read_table(folder / "qrels" / f"{qrels_name or split}.tsv"):
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
    return {"corpus": corpus, "queries": queries, "qrels": [qrels]}
