"""Measure a model in several settings in turn, each in a process of its own."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import numpy as np

from opengte.checkpoint import Checkpoint, read_checkpoint
from opengte.engine import memory, native
from opengte.errors import EngineError, InputError
from opengte.evaluate.speed import machine
from opengte.evaluate.speed.operations import operations
from opengte.evaluate.speed.texts import MIXED
from opengte.types import Floats

COMPARED = 32  # texts whose vectors are compared with those of fp32
REFERENCE = "fp32"
ROUNDS = 3
QUERY_SHARE = 0.15  # of the time that a setting has
LENGTHS = (32, 128, 512)
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}  # of a weight
OVERHEAD = 200 << 20  # bytes: the interpreter, the tokenizer, a batch


@dataclass(frozen=True)
class Setting:
    """How a model runs: a precision on a number of threads."""

    precision: str
    threads: int


@dataclass
class SpeedResult:
    """What was measured of a model in one setting; None is what could not be measured.

    Attributes:
        rates: Tokens a second from strings to vectors, by length in tokens or `mixed`.
        query: Milliseconds of a query of ten tokens, alone, the median.
        start: Seconds from the start of a process to its first vector.
        memory: Peak of that process in bytes.
        lowest, mean: Cosine of a text's vector with its vector in fp32.
        share: Operations a second to what the product alone reaches, on texts of mixed lengths.
    """

    model: str
    setting: Setting
    engine: str = ""
    rates: dict[str, float] = field(default_factory=dict)
    query: float | None = None
    start: float | None = None
    memory: int | None = None
    lowest: float | None = None
    mean: float | None = None
    share: float | None = None
    problem: str | None = None


Progress = Callable[[str], None]
_Running = tuple[SpeedResult, "_Process"]


def default_settings(precisions: Sequence[str] = (), threads: Sequence[int] = ()) -> list[Setting]:
    """Return every precision on all threads, and on one thread where one number is not given."""
    every = list(precisions) or list(native.PRECISIONS)
    if threads:
        return [Setting(precision, count) for count in threads for precision in every]
    most = native.available_threads()
    return [Setting(precision, count) for count in dict.fromkeys((most, 1)) for precision in every]


def measure_model(
    model: str,
    settings: Sequence[Setting],
    *,
    lengths: Sequence[int] = LENGTHS,
    seconds: float = 60.0,
    load: Mapping[str, Any] | None = None,
    progress: Progress = lambda text: None,
) -> list[SpeedResult]:
    """Measure a model in settings, in turn; medians of three rounds.

    Args:
        model: What `Encoder.load` takes.
        settings: One or more; those of the largest number of threads are compared with fp32.
        lengths: In tokens; those beyond the model's maximum length are left out.
        seconds: For all that is timed; loading comes on top.
        load: Further arguments of `Encoder.load`.
        progress: Called with a line about what is done next.

    Raises:
        InputError: There is no setting, or `seconds` is not positive.
        CheckpointError: The model cannot be read, or is no encoder.
    """
    if not settings or seconds <= 0:
        raise InputError(
            f"settings are {list(settings)} and seconds {seconds}, expected at least one and a "
            "positive number"
        )
    options = dict(load or {})
    read = ("revision", "offline", "max_length")
    checkpoint = read_checkpoint(model, **{n: options[n] for n in read if n in options})
    longest = checkpoint.card.max_length
    columns: list[int | str] = [MIXED, *(length for length in lengths if length <= longest)]
    results = [SpeedResult(checkpoint.name, setting) for setting in settings]
    vectors: dict[Setting, Any] = {}
    groups = _groups(results, checkpoint.plan.parameters)
    count = sum(map(len, groups))
    for group in groups:
        with ExitStack() as stack:
            running: list[_Running] = []
            for result in group:
                progress(f"load {result.setting.precision} on {result.setting.threads} threads")
                process = stack.enter_context(_Process())
                if _load(process, model, options, result):
                    running.append((result, process))
            _time_rounds(running, columns, seconds / ROUNDS / count, checkpoint, progress)
            for result, process in running:
                vectors[result.setting] = _vectors(process)
                result.memory = process.ask("memory")["bytes"]
    if not vectors:
        raise EngineError(f"`{model}` runs in no setting: {results[0].problem}")
    _compare(results, vectors)
    return results


def _groups(results: Sequence[SpeedResult], parameters: int) -> list[list[SpeedResult]]:
    """Return the settings that are measured in turn: as many at once as fit into memory.

    Those that alone do not fit are in no group; their problem says so.
    """
    free = memory.free_bytes()
    groups: list[list[SpeedResult]] = []
    taken = 0
    for result in results:
        need = parameters * BYTES.get(result.setting.precision, 4) + OVERHEAD
        if free is not None and need > free:
            result.problem = f"needs {need / 2**30:.1f} GiB, of which {free / 2**30:.1f} are free"
            continue
        if not groups or (free is not None and taken + need > free / 2):
            groups.append([])
            taken = 0
        groups[-1].append(result)
        taken += need
    return groups


def _load(process: "_Process", model: str, options: Mapping[str, Any], result: SpeedResult) -> bool:
    """Load the model in a process; note why, if it does not run in this setting."""
    setting = {"precision": result.setting.precision, "threads": result.setting.threads}
    try:
        card = process.ask("load", model=model, **{**options, **setting})
    except EngineError as error:
        result.problem = str(error)
        return False
    result.start, result.engine = time.monotonic() - process.began, card["engine"]
    result.setting = Setting(card["precision"], card["threads"])
    return True


def _time_rounds(
    running: Sequence[_Running],
    columns: Sequence[int | str],
    slot: float,
    checkpoint: Checkpoint,
    progress: Progress,
) -> None:
    """Fill in rates, queries and shares: all settings in turn, round by round."""
    found: list[dict[str, list[Any]]] = [{} for _ in running]
    each = slot * (1 - QUERY_SHARE) / len(columns)
    for number in range(ROUNDS):
        progress(f"measure, round {number + 1} of {ROUNDS}")
        for (_, process), mine in zip(running, found, strict=True):
            for column in columns:
                answer = process.ask("rate", length=column, seconds=each)
                mine.setdefault(str(column), []).append(answer["tokens_per_second"])
                if column == MIXED:
                    mine["lengths"] = answer["lengths"]
            answer = process.ask("query", seconds=slot * QUERY_SHARE)
            mine.setdefault("query", []).append(answer["milliseconds"])
    for (result, _), mine in zip(running, found, strict=True):
        result.query = median(mine.pop("query"))
        lengths = mine.pop("lengths")
        result.rates = {name: median(values) for name, values in mine.items()}
        if result.engine == "native":
            peak = machine.product_rate(
                checkpoint.plan, result.setting.precision, result.setting.threads
            )
            needed = operations(checkpoint.plan, lengths) / sum(lengths)
            result.share = result.rates[MIXED] * needed / peak if peak else None


def _vectors(process: "_Process") -> Floats:
    with tempfile.TemporaryDirectory(prefix="gte-bench-") as folder:
        path = Path(folder) / "vectors.npy"
        process.ask("vectors", path=str(path), count=COMPARED)
        vectors: Floats = np.load(path)
        return vectors


def _compare(results: Sequence[SpeedResult], vectors: Mapping[Setting, Floats]) -> None:
    """Fill in the cosines to fp32, where fp32 is among the settings."""
    exact = next((v for setting, v in vectors.items() if setting.precision == REFERENCE), None)
    if exact is None:
        return
    for result in results:
        if (own := vectors.get(result.setting)) is not None:
            cosines = np.einsum("nd,nd->n", own, exact)
            result.lowest, result.mean = float(cosines.min()), float(cosines.mean())


class _Process:
    """A worker, see `worker.py`."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "opengte.evaluate.speed.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "_Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, task: str, **request: Any) -> dict[str, Any]:
        """Return a worker's answer; EngineError if it failed or went away."""
        assert self._process.stdin and self._process.stdout
        try:
            print(json.dumps({"do": task, **request}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            status = self._process.wait()
            raise EngineError(
                f"the process that measures ended with status {status} (out of memory?)"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise EngineError(answer["error"])
        return answer
