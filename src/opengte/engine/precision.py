"""Choosing the fastest precision that is close enough to fp32, measured once and cached.

Every precision embeds a few texts. The fastest one whose vectors stay within the bound of those of
fp32 is chosen. A model that is too large for a copy in fp32 is judged by its first layers.
"""

import json
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from opengte.arch.plan import Plan
from opengte.checkpoint import Checkpoint
from opengte.engine.base import Engine
from opengte.types import Floats, PackedBatch
from opengte.weights import WeightChunk

log = logging.getLogger(__name__)

LOWEST_COSINE = 0.99  # the bound on the cosine of a text's vector with its vector in fp32
ROUNDS = 8
LARGEST_COPY = 2 << 30  # the largest fp32 copy that the measurement makes, in bytes

# prose, code, names, numbers, several scripts, short and long texts: hard cases of quantisation
TEXTS = (
    "a",
    "What is the capital of China?",
    "how to implement quick sort in python?",
    "def quicksort(items): return items if len(items) < 2 else sorted(items)",
    "The mitochondrion is the organelle in which most of a cell's chemical energy is made.",
    "Invoice 2024-0817: 3 x USB-C cable, EUR 11.97, due within 14 days of receipt.",
    "北京是中华人民共和国的首都，也是全国的政治和文化中心。",
    "La bibliothèque ouvre à neuf heures et ferme à dix-huit heures, sauf le dimanche.",
    "Привет, как дела? Сегодня хорошая погода.",
    "مرحبا بالعالم",
    "ERROR 1045 (28000): Access denied for user 'root'@'localhost' (using password: YES)",
    "Long documents are cut into passages, and every passage gets a vector of its own. " * 6,
    "!!! ??? ... --- ###",
    "kubernetes helm chart ingress tls secret namespace rollout restart deployment",
    "Retrieve semantically similar text.",
    "The cat sat on the mat. The dog did not. Neither of them had read the contract. " * 3,
)

Build = Callable[[Plan, Iterable[WeightChunk], str], Engine]


@dataclass(frozen=True)
class PrecisionTrial:
    """A measured precision: lowest and mean cosine to fp32, CPU time for all texts."""

    precision: str
    lowest: float
    mean: float
    milliseconds: float


def choose_precision(
    checkpoint: Checkpoint, candidates: tuple[str, ...], build: Build, remembered: Path | None
) -> str:
    """Return the fastest precision within the bound, from the cache file or by measurement."""
    if remembered is not None and (known := _recall(remembered, candidates)):
        return known
    trials = measure_precisions(checkpoint, candidates, build)
    faithful = [trial for trial in trials if trial.lowest >= LOWEST_COSINE]
    best = min(faithful, key=lambda trial: trial.milliseconds)
    for trial in trials:
        log.info("%s: %s", checkpoint.name, trial)
    if remembered is not None:
        _remember(remembered, best, trials)
    return best.precision


def measure_precisions(
    checkpoint: Checkpoint, candidates: tuple[str, ...], build: Build
) -> list[PrecisionTrial]:
    """Run every precision on the same texts in turn, and compare it with fp32."""
    plan = first_layers_within(checkpoint.plan, LARGEST_COPY)
    limit = min(checkpoint.plan.max_positions, 256)  # whatever the maximum length of this load
    batch = checkpoint.tokenizer.encode(TEXTS, max_length=limit).batch
    engines = {
        name: build(plan, checkpoint.chunks(slots=plan.slots()), name) for name in candidates
    }
    seconds = dict.fromkeys(candidates, float("inf"))
    vectors: dict[str, Floats] = {}
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            states, taken = _run(engine, batch)
            seconds[name] = min(seconds[name], taken)
            vectors[name] = _pooled(states, plan, batch)
    cosines = {name: np.einsum("nd,nd->n", vectors[name], vectors["fp32"]) for name in candidates}
    return [
        PrecisionTrial(name, float(c.min()), float(c.mean()), 1000 * seconds[name])
        for name, c in cosines.items()
    ]


def first_layers_within(plan: Plan, size: int) -> Plan:
    """Return the plan with as many layers as fit into a number of bytes of fp32 weights."""
    layers = len(plan.layers)
    while layers > 1 and 4 * layer_parameters(plan, layers) > size:
        layers -= 1
    return replace(plan, layers=plan.layers[:layers])


def layer_parameters(plan: Plan, layers: int) -> int:
    """Return the number of weights in the first layers, without the word vectors."""
    words = plan.embedding.vocabulary * plan.width
    return replace(plan, layers=plan.layers[:layers]).parameters - words


def _run(engine: Engine, batch: PackedBatch) -> tuple[Floats, float]:
    """Return the states and the CPU time of all threads, which other load hardly changes."""
    start = time.process_time()
    states = engine.run(batch, frozenset({"states"})).states
    taken = time.process_time() - start
    assert states is not None
    return states, taken


def _pooled(states: Floats, plan: Plan, batch: PackedBatch) -> Floats:
    kind = plan.score.pooling if plan.score else plan.pooling
    bounds = batch.cu_seqlens
    if kind in ("cls", "last"):
        vectors = states[bounds[:-1] if kind == "cls" else bounds[1:] - 1]
    else:
        vectors = np.add.reduceat(states, bounds[:-1], axis=0)
    result: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def _recall(path: Path, candidates: tuple[str, ...]) -> str | None:
    try:
        chosen = json.loads(path.read_text(encoding="utf-8"))["precision"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return chosen if chosen in candidates else None


def read_trials(path: Path) -> tuple[list[PrecisionTrial], float]:
    """Return what was measured and kept in a file, and when (Unix time); nothing without one."""
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))["trials"]
        return [PrecisionTrial(**trial) for trial in recorded], path.stat().st_mtime
    except (OSError, ValueError, KeyError, TypeError):
        return [], 0.0


def _remember(path: Path, best: PrecisionTrial, trials: list[PrecisionTrial]) -> None:
    record = {"precision": best.precision, "trials": [asdict(trial) for trial in trials]}
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        log.warning("the choice of precision cannot be kept in %s: %s", path.parent, error)
