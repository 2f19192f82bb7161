"""Tokens a second of the torch engine on a GPU, beside sentence-transformers, and its fidelity.

    python bench/gpu.py [--shapes gte-base,gte-Qwen2-1.5B-instruct] [--folder /tmp/gpu-bench]

Writes checkpoints of published shapes with random weights. The texts are words of one letter, so
that a word is a token; their lengths follow the log-normal curve of bench/texts.py. Both encode the
same texts from strings to arrays, sorted by length by themselves, in turn; sentence-transformers at
the best of several batch sizes. Decoders: theirs attends causally, which is less work than ours.
"""

import argparse
import json
import logging
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import random_checkpoint
from texts import LONGEST, MEDIAN, SHORTEST, SIGMA

from opengte import Encoder

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PEER_BATCHES = (32, 128, 512)
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def texts(count: int, seed: int = 0) -> list[str]:
    """Return texts of words of one letter."""
    generator = random.Random(seed)
    lengths = np.random.default_rng(seed).lognormal(np.log(MEDIAN), SIGMA, count)
    sizes = lengths.clip(SHORTEST, LONGEST - 2).astype(int).tolist()
    return [" ".join(generator.choices(LETTERS, k=size)) for size in sizes]


def checkpoint(root: Path, shape: str) -> Path:
    """Write a checkpoint, once."""
    folder = root / shape
    if not (folder / "tokenizer.json").is_file():
        random_checkpoint.write(folder, dict(random_checkpoint.SHAPES[shape]), 1, "BF16")
    return folder


def for_peer(folder: Path) -> Path:
    """Return a copy of a checkpoint that names no code of its own."""
    copy = folder.with_name(folder.name + "-peer")
    copy.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name != "config.json" and not (copy / path.name).exists():
            (copy / path.name).symlink_to(path.resolve())
    config = json.loads((folder / "config.json").read_text())
    config.pop("auto_map", None)
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def ours(folder: Path, precision: str) -> Callable[[list[str]], Any]:
    """Return a function that encodes."""
    encoder = Encoder.load(str(folder), engine="torch", device="cuda", precision=precision)
    return lambda items: encoder.embed(items, progress=False).dense


def theirs(folder: Path, dtype: torch.dtype, batch: int) -> Callable[[list[str]], Any]:
    """Return a function that encodes as sentence-transformers does."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(for_peer(folder)), device="cuda", model_kwargs={"dtype": dtype})
    model.max_seq_length = LONGEST
    return lambda items: model.encode(items, batch_size=batch, show_progress_bar=False)


def seconds(run: Callable[[list[str]], Any], items: list[str], rounds: int) -> float:
    """Return the median time of a run, after one that is not timed."""
    run(items)
    times = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        began = time.perf_counter()
        run(items)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def fidelity(folder: Path, items: list[str]) -> dict[str, float]:
    """Return the lowest cosine of each precision on the GPU to fp32 on the CPU."""
    exact = Encoder.load(str(folder), engine="torch", device="cpu", precision="fp32")
    wanted = exact.embed(items, progress=False).dense
    assert wanted is not None
    found = {}
    for precision in DTYPES:
        vectors = ours(folder, precision)(items)
        found[precision] = float((vectors * wanted).sum(axis=1).min())
    return found


def compare(
    folder: Path, items: list[str], tokens: int, precisions: list[str], rounds: int
) -> None:
    """Print what one shape gives."""
    lowest = fidelity(folder, items[:32])
    print(f"\n{folder.name}: lowest cosine to fp32 on the CPU: ", end="")
    print(", ".join(f"{name} {value:.7f}" for name, value in lowest.items()))
    for precision in precisions:
        dtype = DTYPES[precision]
        rate = tokens / seconds(ours(folder, precision), items, rounds)
        peers = {
            batch: tokens / seconds(theirs(folder, dtype, batch), items, rounds)
            for batch in PEER_BATCHES
        }
        best = max(peers, key=lambda batch: peers[batch])
        print(
            f"  {precision}: {rate:12,.0f} tokens/s, sentence-transformers {peers[best]:12,.0f} "
            f"(batches of {best}): {rate / peers[best]:.2f} x",
            flush=True,
        )


def main() -> None:
    """Compare every shape."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--shapes", default="gte-base,gte-modernbert-base,gte-Qwen2-1.5B-instruct")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/opengte-gpu-bench"))
    parser.add_argument("--precisions", default="bf16")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    items = texts(options.texts)
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}")
    tokens = sum(text.count(" ") + 1 for text in items)
    for shape in options.shapes.split(","):
        folder = checkpoint(options.folder, shape)
        compare(folder, items, tokens, options.precisions.split(","), options.rounds)


if __name__ == "__main__":
    main()
