"""Run MTEB tasks with one model: mteb computes the scores; runs are timed and resumable."""

import contextlib
import difflib
import io
import math
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from opengte.errors import InputError, MissingExtraError
from opengte.evaluate import mteb_local, records, suites
from opengte.evaluate.cached_encoder import EncodingStats
from opengte.evaluate.mteb_adapter import BATCH, EncoderForMteb, RerankerForMteb
from opengte.evaluate.mteb_folders import LAYOUT
from opengte.evaluate.noise import SAMPLED, score_noise
from opengte.evaluate.records import MtebRun, TaskRun, TaskScore
from opengte.types import ModelCard

SEED = 42  # mteb's own
PACKAGES = ("opengte", "mteb", "numpy", "scipy", "scikit-learn", "torch", "tokenizers")
Model = EncoderForMteb | RerankerForMteb


@dataclass(frozen=True)
class TaskSelection:
    """One task to run; None selects all subsets or splits."""

    task: str
    subsets: tuple[str, ...] | None = None
    splits: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RunCallbacks:
    """Callbacks of a run: begin(task, place, tasks, texts) and end(record)."""

    begin: Callable[[str, int, int, int], None] = lambda task, place, tasks, texts: None
    end: Callable[[TaskRun], None] = lambda task: None


def require_mteb() -> Any:
    """Import mteb; MissingExtraError names the extra to install."""
    try:
        with _quiet():
            import mteb
    except ImportError as error:
        raise MissingExtraError("mteb", "eval", "evaluating on MTEB") from error
    return mteb


def check_task_names(names: Iterable[str]) -> None:
    """Raise InputError for a task that mteb does not have, with the nearest names.

    >>> check_task_names(["STSBenchmark"])
    >>> check_task_names(["STSBench"])
    Traceback (most recent call last):
    ...
    opengte.errors.InputError: mteb has no task 'STSBench'. Did you mean STSBenchmark...?
    """
    mteb = require_mteb()
    for name in dict.fromkeys(names):
        try:
            with _quiet():
                mteb.get_task(name)
        except KeyError:
            raise InputError(f"mteb has no task {name!r}.{_nearest(mteb, name)}") from None


def suite_selection(name: str) -> list[TaskSelection]:
    """Return the tasks of a suite, as a paper had it or as mteb defines it.

    Raises InputError for a name that neither has.

    >>> len(suite_selection("mteb-fr-26"))
    26
    """
    if name.lower() in suites.suite_names():
        return [
            TaskSelection(task.task, (task.subset,), (task.split,))
            for task in suites.load_suite(name).tasks
        ]
    mteb = require_mteb()
    with _quiet():
        known = {suite.name: suite for suite in mteb.get_benchmarks()}
    if name not in known:
        every = [*suites.suite_names(), *known]
        near = difflib.get_close_matches(name, every, n=3, cutoff=0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise InputError(
            f"there is no suite {name!r}, expected {', '.join(suites.suite_names())} or one of "
            f"mteb's.{hint}"
        )
    return [
        TaskSelection(task.metadata.name, tuple(task.hf_subsets), tuple(task.eval_splits))
        for task in known[name].tasks
    ]


def _nearest(mteb: Any, name: str) -> str:
    with _quiet():
        known = {task.metadata.name for task in mteb.get_tasks(exclude_superseded=False)}
    near = [other for other in known if other.lower() == name.lower()]
    near = near or difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def run_tasks(
    model: Model,
    wanted: Sequence[TaskSelection],
    output: Path,
    *,
    data: Path | None = None,
    hub: bool = True,
    watch: RunCallbacks | None = None,
) -> MtebRun:
    """Run tasks in order and return the record; results go to `output`, in mteb's own layout.

    data is a folder of datasets, searched before the Hub; hub=False disables the Hub. Tasks that an
    earlier run in `output` finished are not run again. A task whose data are not available is
    recorded as not run. Raises InputError for unknown tasks or the output of another model.

    >>> from opengte.evaluate.cached_encoder import CachedEncoder
    >>> Path("data/STSBenchmark").mkdir(parents=True)
    >>> import json
    >>> rows = [("a cat", "a kitten", 4.0), ("a cat", "git reset", 0.5), ("a dog", "dogs", 4.5)]
    >>> names = "sentence1", "sentence2", "score"
    >>> lines = [json.dumps(dict(zip(names, row))) for row in rows]
    >>> written = Path("data/STSBenchmark/test.jsonl").write_text("\\n".join(lines))
    >>> wanted = [TaskSelection("STSBenchmark")]
    >>> model = EncoderForMteb(CachedEncoder(encoder))
    >>> run = run_tasks(model, wanted, Path("out"), data=Path("data"), hub=False)
    >>> [(task.task, task.status) for task in run.tasks]
    [('STSBenchmark', 'done')]
    """
    check_task_names(item.task for item in wanted)
    watch = watch or RunCallbacks()
    settings = run_settings(model.mteb_model_meta, _card(model), _origin(data, hub))
    record = _resume(output, MtebRun(model.mteb_model_meta.name, settings), model)
    for place, item in enumerate(wanted, 1):
        records.write_run(output / records.RECORD, replace(record, unfinished=item.task))
        outcome = _one(model, item, output, data, hub, watch, (place, len(wanted)), record)
        record = record.with_task(outcome)
        records.write_run(output / records.RECORD, record)
        watch.end(outcome)
    return record


def _origin(data: Path | None, hub: bool) -> str:
    """Return where data come from, in words."""
    places = [f"the folder {data.name}"] if data is not None else []
    return ", then ".join([*places, "the Hub"] if hub else places) or "nowhere"


def run_settings(meta: Any, card: ModelCard, data: str) -> dict[str, Any]:
    """Return everything that is needed to reproduce a run."""
    return {
        "fingerprint": card.fingerprint,
        "revision": meta.revision,
        "source": card.source,
        "engine": card.engine,
        "precision": card.precision,
        "device": card.device,
        "threads": card.threads,
        "dimensions": meta.embed_dim,
        "max_length": card.max_length,
        "seed": SEED,
        "data": data,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _card(model: Model) -> ModelCard:
    loaded = model.encoder.encoder if isinstance(model, EncoderForMteb) else model.reranker
    card: ModelCard = loaded.card
    return card


def _resume(output: Path, fresh: MtebRun, model: Model) -> MtebRun:
    """Return the earlier run of the same model in the folder, or a fresh one.

    A task that was cut off is begun again as a whole: its draws depend on their order.
    """
    path = output / records.RECORD
    if not path.is_file():
        return fresh
    old = records.read_run(path)
    if old.settings.get("revision") != fresh.settings["revision"] or old.model != fresh.model:
        raise InputError(
            f"`{output}` holds results of {old.model}, {old.settings.get('revision')}; this is "
            f"{fresh.model}, {fresh.settings['revision']}. Choose another --output."
        )
    if old.unfinished is not None and old.task(old.unfinished) is None:
        _result_path(output, model, old.unfinished).unlink(missing_ok=True)
    return MtebRun(fresh.model, fresh.settings, old.tasks)


def _result_path(output: Path, model: Model, task: str) -> Path:
    meta = model.mteb_model_meta
    folder = output / "results" / meta.model_name_as_path() / meta.revision
    path: Path = folder / f"{task}.json"
    return path


def _one(
    model: Model,
    item: TaskSelection,
    output: Path,
    data: Path | None,
    hub: bool,
    watch: RunCallbacks,
    place: tuple[int, int],
    record: MtebRun,
) -> TaskRun:
    mteb = require_mteb()
    start, before = time.perf_counter(), model.stats.copy()
    try:
        with _quiet():
            task = _load(mteb, item, data, hub)
    except Exception as error:  # whatever a data set's loader raises: the other tasks go on
        return TaskRun(item.task, "not run", _reason(error))
    kept = _kept(mteb, task, model, output, record.task(item.task))
    if kept is not None:
        return kept
    watch.begin(item.task, *place, count_texts(task))
    try:
        with _quiet():
            result = mteb.evaluate(
                model,
                task,
                cache=mteb.ResultCache(output),
                co2_tracker=False,
                encode_kwargs={"batch_size": BATCH, "show_progress_bar": False},
                show_progress_bar=False,
            )
    except TypeError as error:  # how mteb says that a reranker cannot do a task
        if isinstance(model, EncoderForMteb):
            raise
        return TaskRun(item.task, "not run", f"a reranker cannot do it: {_reason(error)}")
    found = _from_disk(mteb, _result_path(output, model, item.task), result.task_results[0])
    work, seconds = model.stats - before, time.perf_counter() - start
    return _outcome(item.task, _scores(task, found), work, seconds, _scoring(found))


def _from_disk(mteb: Any, path: Path, result: Any) -> Any:
    """Return the result as it was filed, rounded, so that a later run reads the same scores."""
    return mteb.results.TaskResult.from_disk(path) if path.is_file() else result


def _outcome(
    task: str, scores: tuple[TaskScore, ...], work: EncodingStats, seconds: float, scoring: float
) -> TaskRun:
    return TaskRun(
        task,
        "done",
        scores=scores,
        seconds=seconds,
        encoding_seconds=work.seconds,
        scoring_seconds=scoring,
        texts=work.texts,
        encoded=work.encoded,
        tokens=work.tokens,
        truncated=work.truncated,
    )


def _scoring(result: Any) -> float:
    """Return the seconds that mteb itself spent on classifiers, clusterings and the like."""
    phases = result.evaluation_phases or ()
    spent = [phase["end"] - phase["start"] for phase in phases if phase["name"] == "Scoring"]
    return float(sum(spent))


def _load(mteb: Any, item: TaskSelection, data: Path | None, hub: bool) -> Any:
    """Return the task with its data."""
    task = mteb.get_task(
        item.task,
        hf_subsets=None if item.subsets is None else list(item.subsets),
        eval_splits=None if item.splits is None else list(item.splits),
    )
    if data is not None and mteb_local.has_task(item.task, data):
        return mteb_local.load_task_data(task, data)
    if not hub:
        where = (
            "no --data folder is given" if data is None else f"`{data}` does not have it ({LAYOUT})"
        )
        raise InputError(f"its data are not available: {where}, and the Hub is disabled")
    if not task.is_aggregate:
        task.load_data()
    return task


def _kept(mteb: Any, task: Any, model: Model, output: Path, old: TaskRun | None) -> TaskRun | None:
    """Return what an earlier run found, if it covers everything asked for now."""
    path = _result_path(output, model, task.metadata.name)
    if not path.is_file():
        return None
    try:
        with _quiet():
            result = mteb.results.TaskResult.from_disk(path)
            missing = result.get_missing_evaluations(task)
    except (ValueError, KeyError):  # cut off while it was written
        path.unlink()
        return None
    if missing:
        return None
    scores = _scores(task, result)
    return replace(old or TaskRun(task.metadata.name, "kept"), status="kept", scores=scores)


def _scores(task: Any, result: Any) -> tuple[TaskScore, ...]:
    """Return the main scores that were asked for, in points."""
    kind, metric = task.metadata.type, task.metadata.main_score
    return tuple(
        TaskScore(
            task=task.metadata.name,
            type=kind,
            subset=entry["hf_subset"],
            split=split,
            metric=metric,
            value=100 * float(entry["main_score"]),
            noise=score_noise(kind, metric, entry),
            sampled=kind in SAMPLED,
        )
        for split, entries in result.scores.items()
        if split in task.eval_splits
        for entry in entries
        if entry["hf_subset"] in task.hf_subsets and not math.isnan(entry["main_score"])
    )


def count_texts(task: Any) -> int:
    """Return roughly how many texts a task encodes, as the total of a progress bar."""
    return 0 if task.is_aggregate or task.dataset is None else _texts(task.dataset, task)


def _texts(node: Any, task: Any) -> int:
    """Count the texts of the splits to evaluate in mteb's nested data: subsets, splits, rows."""
    leaves = {name: _rows(child) for name, child in node.items()}
    return sum(
        _texts(node[name], task) if rows is None else rows * (name in task.eval_splits)
        for name, rows in leaves.items()
    )


def _rows(node: Any) -> int | None:
    """Return the texts of one split, None for what holds splits."""
    if "relevant_docs" in node:
        return len(node["corpus"]) + len(node["queries"])
    columns = getattr(node, "column_names", None)
    if not isinstance(columns, list):
        return None
    if {"sentence1", "sentence2"} <= set(columns):
        return 2 * len(node)
    nested = len(node) and "sentences" in columns and isinstance(node[0]["sentences"], list)
    return sum(map(len, node["sentences"])) if nested else len(node)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress mteb's progress bars, logs and warnings."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def disable_hub() -> None:
    """Make the Hub's libraries work offline; call this before they are imported."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        os.environ[name] = "1"
    assert "datasets" not in sys.modules or os.environ["HF_HUB_OFFLINE"] == "1"
