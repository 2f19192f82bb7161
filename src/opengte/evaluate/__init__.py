"""Evaluation: published benchmarks with mteb, and decisions on one's own data.

`mteb_*` modules import mteb and need the extra `eval`; the others do not. The names below are
loaded on first use.

>>> import opengte.evaluate
>>> print(opengte.evaluate.parse_system("minilm,dimensions=128").dimensions)
128
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opengte.evaluate.compare import SystemComparison, compare_systems, comparison_report
    from opengte.evaluate.dataset import RetrievalDataset, load_dataset
    from opengte.evaluate.mteb_run import RunCallbacks, TaskSelection, run_tasks, suite_selection
    from opengte.evaluate.needle import NeedleAccuracy, needle_report, run_needle_test
    from opengte.evaluate.records import MtebRun, TaskRun, TaskScore, read_run, write_run
    from opengte.evaluate.regression import ScoreChange, compare_results
    from opengte.evaluate.report import EvaluationReport, write_report
    from opengte.evaluate.significance import PairedTest, paired_test, queries_needed
    from opengte.evaluate.suites import BenchmarkSuite, load_suite, suite_names
    from opengte.evaluate.sweep import sweep_report, sweep_systems
    from opengte.evaluate.systems import (
        ModelLoaders,
        RetrievalSystem,
        SystemResult,
        evaluate_systems,
        parse_system,
    )

_NAMES = {
    "compare": "SystemComparison compare_systems comparison_report",
    "dataset": "RetrievalDataset load_dataset",
    "mteb_run": "RunCallbacks TaskSelection run_tasks suite_selection",
    "needle": "NeedleAccuracy needle_report run_needle_test",
    "records": "MtebRun TaskRun TaskScore read_run write_run",
    "regression": "ScoreChange compare_results",
    "report": "EvaluationReport write_report",
    "significance": "PairedTest paired_test queries_needed",
    "suites": "BenchmarkSuite load_suite suite_names",
    "sweep": "sweep_report sweep_systems",
    "systems": "ModelLoaders RetrievalSystem SystemResult evaluate_systems parse_system",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "BenchmarkSuite",
    "EvaluationReport",
    "ModelLoaders",
    "MtebRun",
    "NeedleAccuracy",
    "PairedTest",
    "RetrievalDataset",
    "RetrievalSystem",
    "RunCallbacks",
    "ScoreChange",
    "SystemComparison",
    "SystemResult",
    "TaskRun",
    "TaskScore",
    "TaskSelection",
    "compare_results",
    "compare_systems",
    "comparison_report",
    "evaluate_systems",
    "load_dataset",
    "load_suite",
    "needle_report",
    "paired_test",
    "parse_system",
    "queries_needed",
    "read_run",
    "run_needle_test",
    "run_tasks",
    "suite_names",
    "suite_selection",
    "sweep_report",
    "sweep_systems",
    "write_report",
    "write_run",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module `opengte.evaluate` has no attribute `{name}`")
    return getattr(importlib.import_module(f"opengte.evaluate.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
