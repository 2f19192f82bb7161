"""Every architecture in one table: its oracle, differences from it, fidelity of precisions, speed.

    python bench/architectures.py [--only mpnet,nomic_bert] [--no-speed] [--threads 2] [--isa avx2]

Differences are of token states of tiny random networks, packed, from the oracle's text by text;
cosines are of their means, int8 and bf16 against fp32. Tokens a second are those of int8 on random
weights of the published shape, by its first layers; the share is of the product rate that
`opengte._native.probe` measures. Random weights say nothing about the quality of a precision.
"""

import argparse
import importlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from opengte import checkpoint
from opengte.arch import plan_of
from opengte.arch.plan import Plan
from opengte.engine import native, native_extension
from opengte.types import PackedBatch
from opengte.weights import WeightChunk
from tests.parity import families, oracle, packed, test_wider_families
from tests.support import checkpoints, naive
from tests.support.published_configs import CONFIGS

Array = npt.NDArray[Any]
Oracle = Callable[[Array], Array]
LAYERS = 4  # of a published shape that are timed
VOCABULARY = 4096  # of it: rows of a table that cost no time
LENGTHS = (24, 48, 96, 130, 200, 300, 60, 30)


@dataclass(frozen=True)
class Row:
    """An architecture: how a tiny checkpoint of it is made, and the shape that is timed."""

    name: str
    build: Callable[[Path], Oracle]
    shape: str | None


def _from_case(case: str) -> Callable[[Path], Oracle]:
    def build(folder: Path) -> Oracle:
        name, settings = test_wider_families.CASES[case]
        model = test_wider_families.build(folder, name, settings)
        return lambda ids: oracle.states(model, ids)

    return build


def _from_family(name: str) -> Callable[[Path], Oracle]:
    def build(folder: Path) -> Oracle:
        families.FAMILIES[name](folder)
        if name == "new":
            config, tensors = checkpoints.read_json(folder / "config.json"), checkpoints
            arrays = tensors.arrays_of(folder)
            return lambda ids: naive.new_states(config, arrays, ids.tolist()).astype(np.float32)
        model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        return lambda ids: oracle.states(model, ids)

    return build


ROWS = (
    Row("bert", _from_family("bert"), "thenlper/gte-base"),
    Row("xlm-roberta", _from_family("xlm-roberta"), "BAAI/bge-m3"),
    Row("camembert", _from_case("camembert"), None),
    Row("distilbert", _from_case("distilbert"), "distilbert/distilbert-base-uncased"),
    Row("electra", _from_case("electra, projected"), None),
    Row("mpnet", _from_case("mpnet"), "sentence-transformers/all-mpnet-base-v2"),
    Row("new", _from_family("new"), "Alibaba-NLP/gte-base-en-v1.5"),
    Row("modernbert", _from_family("modernbert"), "Alibaba-NLP/gte-modernbert-base"),
    Row("nomic_bert", _from_case("nomic_bert"), "nomic-ai/nomic-embed-text-v1.5"),
    Row("eurobert", _from_case("eurobert"), None),
    Row("t5", _from_case("t5"), "sentence-transformers/gtr-t5-base"),
    Row("gemma3_text", _from_case("gemma 3, bidirectional"), "google/embeddinggemma-300m"),
    Row("llama", _from_case("llama 3"), "nvidia/llama-embed-nemotron-8b"),
    Row("ministral", _from_case("ministral"), None),
    Row("ministral3", _from_case("ministral 3"), None),
    Row("mistral", _from_family("mistral"), "intfloat/e5-mistral-7b-instruct"),
    Row("qwen2", _from_family("qwen2"), "Alibaba-NLP/gte-Qwen2-1.5B-instruct"),
    Row("qwen3", _from_family("qwen3"), "Qwen/Qwen3-Embedding-0.6B"),
)


def compare(row: Row, isa: str) -> dict[str, float]:
    """Return the largest differences from the oracle, and the lowest cosines to fp32."""
    rows = packed.rows_of((1, 2, 3, 17, 33, 130))
    batch = packed.pack(rows)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = row.build(Path(place))
        described = checkpoint.read_checkpoint(place)
        engines = {
            name: native.build_native_engine(
                described.plan, described.chunks(), precision=name, isa=isa
            )
            for name in native.PRECISIONS
        }
        slow = packed.states(packed.load(Path(place)), batch)
        fast = {name: packed.states(engine, batch) for name, engine in engines.items()}
        truth = [wanted(one) for one in rows]
    means = {name: np.stack([state.mean(0) for state in found]) for name, found in fast.items()}
    return {
        "native": _largest(fast["fp32"], truth),
        "torch": _largest(slow, truth),
        "int8": _lowest(means["int8"], means["fp32"]),
        "bf16": _lowest(means["bf16"], means["fp32"]),
    }


def _largest(found: list[Array], wanted: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(found, wanted, strict=True))


def _lowest(found: Array, wanted: Array) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float((np.einsum("nd,nd->n", found, wanted) / lengths).min())


def random_weights(plan: Plan) -> Iterator[WeightChunk]:
    """Yield random values for every slot of a plan."""
    noise = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32) * 0.02
    for slot, spec in plan.slots().items():
        size = int(np.prod(spec.shape))
        values = np.resize(noise, size).reshape(spec.shape)
        yield WeightChunk(slot, 0, values + (1.0 if "norm" in slot else 0.0), "F32")


def speed(shape: str, threads: int, isa: str, rounds: int) -> tuple[float, float]:
    """Return the tokens a second of the whole shape in int8, and the share of the product rate."""
    whole = plan_of(CONFIGS[shape])
    embedding = replace(whole.embedding, vocabulary=VOCABULARY)
    layers = whole.layers[:LAYERS]
    plan = replace(
        whole, embedding=embedding, layers=layers, score=None, sparse=False, pooling="mean"
    )
    engine = native.build_native_engine(
        plan, random_weights(plan), precision="int8", threads=threads, isa=isa
    )
    counts = np.array(LENGTHS * 4)
    batch = packed.pack([np.full(count, 7, np.int32) for count in counts])
    took = _fastest(engine, batch, rounds)
    layer, width = layers[0], plan.width
    inner, heads = layer.ffn.inner, layer.attention
    keys = 2 * heads.kv_heads * heads.head_dim
    per_layer = width * (2 * heads.heads * heads.head_dim + keys)
    per_layer += width * inner * (3 if layer.ffn.gated else 2)
    attention = 2.0 * heads.heads * heads.head_dim * float((counts**2).sum()) / counts.sum()
    operations = 2.0 * (per_layer + attention) * len(layers) * counts.sum()
    probe: Any = importlib.import_module("opengte._native").probe
    rate = max(probe.rate(isa, "int8", 96, n, width, 5) for n in (width, 3 * width))
    tokens = counts.sum() / took * len(layers) / len(whole.layers)
    return float(tokens), operations / took / threads / rate


def _fastest(engine: native.NativeEngine, batch: PackedBatch, rounds: int) -> float:
    wanted = frozenset({"dense"})
    engine.run(batch, wanted)  # type: ignore[arg-type]
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        engine.run(batch, wanted)  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Compare, measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help=f"of {', '.join(row.name for row in ROWS)}")
    parser.add_argument("--no-speed", action="store_true", help="differences and cosines only")
    parser.add_argument("--threads", type=int, default=native.available_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", default=native_extension.choose_isa())
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [row.name for row in ROWS]
    if unknown := set(wanted) - {row.name for row in ROWS}:
        raise SystemExit(f"--only has {', '.join(sorted(unknown))}, which is no row")
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    print(f"{options.isa}, {options.threads} threads, int8 on the first {LAYERS} layers")
    print("architecture  oracle        native    torch     int8     bf16     tokens/s  share")
    for row in ROWS:
        if row.name not in wanted:
            continue
        found = compare(row, options.isa)
        source = "NumPy float64" if row.name == "new" else "transformers"
        line = f"{row.name:13} {source:13} {found['native']:.1e}  {found['torch']:.1e}"
        line += f"  {found['int8']:.5f}  {found['bf16']:.5f}"
        if row.shape and not options.no_speed:
            tokens, share = speed(row.shape, options.threads, options.isa, options.rounds)
            line += f"  {tokens:8.0f}  {share:5.0%}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
