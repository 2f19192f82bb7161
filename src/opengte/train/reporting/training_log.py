"""The log of a run: every step's loss, the means of every few steps, evaluations; as CSV tables."""

import csv
import importlib
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from opengte.errors import MissingExtraError

STEPS, LOG, EVALUATIONS = "steps.csv", "log.csv", "evaluations.csv"


@dataclass(frozen=True)
class StepRecord:
    """One step: its source, a checksum of its global rows, and its outcome."""

    step: int
    source: str
    rows: str
    loss: float
    gradient_norm: float
    learning_rate: float
    skipped: bool


@dataclass(frozen=True)
class LogRow:
    """Means over the last steps.

    Speeds are over all processes; padding, mfu (model FLOP utilisation) and loader_wait are in
    percent; memory is in GiB.
    """

    step: int
    loss: float
    gradient_norm: float
    learning_rate: float
    pairs_per_second: float
    tokens_per_second: float
    padding: float
    mfu: float
    loader_wait: float
    memory: float
    seconds: float

    def __str__(self) -> str:
        return (
            f"step {self.step}  loss {self.loss:.4f}  norm {self.gradient_norm:.3g}  "
            f"lr {self.learning_rate:.3g}  {self.pairs_per_second:.4g} pairs/s  "
            f"{self.tokens_per_second:.4g} tokens/s  padding {self.padding:.1f}%  "
            f"mfu {self.mfu:.1f}%  loader {self.loader_wait:.1f}%  {self.memory:.2f} GiB"
        )


class ThroughputMeter:
    """Accumulates the work of some steps and turns it into a row of the log."""

    def __init__(self, device: torch.device, peak_flops: float) -> None:
        self._device, self._peak = device, peak_flops
        self._clear()

    def _clear(self) -> None:
        self._started = time.perf_counter()
        self._steps, self._loss, self._norm, self._flops = 0, 0.0, 0.0, 0.0
        self._pairs, self._tokens, self._computed, self._waited = 0.0, 0.0, 0.0, 0.0

    def add(
        self,
        record: StepRecord,
        *,
        pairs: float,
        tokens: float,
        computed: float,
        flops: float,
        waited: float,
    ) -> None:
        """Add one step: rows, tokens of texts and of chunks, FLOPs, seconds waited for data."""
        self._steps += 1
        self._loss += record.loss
        self._norm += record.gradient_norm
        self._pairs += pairs
        self._tokens += tokens
        self._computed += computed
        self._flops += flops
        self._waited += waited

    def line(self, record: StepRecord, processes: int) -> LogRow:
        """Return the means since the last row, and start again."""
        seconds = max(time.perf_counter() - self._started, 1e-9)
        line = LogRow(
            step=record.step,
            loss=self._loss / self._steps,
            gradient_norm=self._norm / self._steps,
            learning_rate=record.learning_rate,
            pairs_per_second=self._pairs / seconds,
            tokens_per_second=self._tokens / seconds,
            padding=100 * (1 - self._tokens / max(1.0, self._computed)),
            mfu=100 * self._flops / seconds / (self._peak * processes),
            loader_wait=100 * self._waited / seconds,
            memory=peak_memory(self._device),
            seconds=seconds,
        )
        self._clear()
        return line


def peak_memory(device: torch.device) -> float:
    """Return the peak memory of this process in GiB: of the GPU, or resident."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**30 if sys.platform == "darwin" else 2**20)


def measure_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Return the FLOP/s that a matrix product reaches on this device."""
    size = 8192 if device.type == "cuda" else 1536
    # a GPU multiplies ones faster than random numbers
    seeded = torch.Generator(device).manual_seed(0)
    a = torch.randn(size, size, device=device, generator=seeded).to(dtype)
    best = float("inf")
    for _ in range(4):
        _finish(device)
        started = time.perf_counter()
        a @ a
        _finish(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class TrainingLog:
    """The tables and the progress bar of a run; only the first process has one.

    Rows of steps after `start` come from a run that was cut off, and are removed.
    """

    def __init__(
        self, folder: Path, start: int, steps: int, *, tensorboard: bool, progress: bool | None
    ) -> None:
        self._board = _summary_writer(folder / "tensorboard", start) if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        names = [field.name for field in fields(StepRecord)]
        self._steps = CsvTable(folder / STEPS, names, start)
        self._lines = CsvTable(folder / LOG, [field.name for field in fields(LogRow)], start)
        self._evaluations = CsvTable(folder / EVALUATIONS, ["step", "metric", "value"], start)
        shown = sys.stderr.isatty() if progress is None else progress
        self._bar = tqdm(
            total=steps, initial=start, unit="step", disable=not shown, dynamic_ncols=True
        )

    def step(self, record: StepRecord) -> None:
        """Record one step."""
        self._steps.add(asdict(record))
        self._bar.update(1)

    def line(self, line: LogRow, say: Callable[[str], None]) -> None:
        """Record a row of the log, and pass it to `say`."""
        self._lines.add(asdict(line))
        self._show(line.step, {k: v for k, v in asdict(line).items() if k != "step"}, "train")
        self._bar.set_postfix_str(f"loss {line.loss:.4f}", refresh=False)
        self._print(str(line), say)

    def evaluation(
        self, step: int, metrics: Mapping[str, float], say: Callable[[str], None]
    ) -> None:
        """Record an evaluation, and pass it to `say`."""
        for name, value in metrics.items():
            self._evaluations.add({"step": step, "metric": name, "value": value})
        self._show(step, metrics, "evaluation")
        text = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        self._print(f"step {step}  {text}", say)

    def _print(self, text: str, say: Callable[[str], None]) -> None:
        self._bar.clear()
        say(text)
        self._bar.refresh()

    def _show(self, step: int, values: Mapping[str, float], group: str) -> None:
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{group}/{name}", value, step)

    def close(self) -> None:
        """Close the files."""
        for table in (self._steps, self._lines, self._evaluations):
            table.close()
        if self._board is not None:
            self._board.close()
        self._bar.close()


class CsvTable:
    """A CSV file to append to; each row reaches the system before the next step starts."""

    def __init__(self, path: Path, columns: list[str], start: int) -> None:
        rows = [row for row in read_table(path) if int(row["step"]) <= start]
        fresh = path.with_name(f".{path.name}")
        with fresh.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        fresh.replace(path)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, columns)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; numbers are written with all digits."""
        self._writer.writerow(row)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the complete rows of a CSV file; a row that was cut off is left out."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1].splitlines()
    return [row for row in csv.DictReader(whole) if None not in row.values()]


def _summary_writer(folder: Path, start: int) -> Any:
    try:
        module = importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise MissingExtraError("tensorboard", "train", "tensorboard=True") from None
    return module.SummaryWriter(str(folder), purge_step=start + 1)
