"""Tokens a second of contrastive training, beside sentence-transformers' trainer.

The same model, rows, order, batch, precision, loss and threads; tokens are those of the texts,
padding apart. Both read texts as their trainers do: ours from shards that were tokenised before,
theirs from a dataset that is tokenised on the way.

python bench/training.py --data ../shared/data/train --texts mixed --steps 8
"""

import argparse
import gzip
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

TARGETS = {"mixed": 1.5, "skewed": 1.8}
ARMS = ("ours", "ours-cached", "theirs", "theirs-cached")
MAX_TOKENS = 256
SKIP = 2  # first steps, which are not timed


def records(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a compressed JSON Lines file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def pairs(data: Path, texts: str, count: int) -> list[tuple[str, str]]:
    """Return pairs of real texts: package titles and descriptions, questions and answers.

    `mixed`: half of each. `skewed`: short ones, and one long answer in sixteen.
    """
    generator = random.Random(0)
    debian = records(data / "debian-descriptions" / "en.jsonl.gz")
    medical = records(data / "medquad" / "qa.jsonl.gz")
    short = [(r["title"], r["body"]) for r in debian if r["body"]]
    long = [(r["question"], r["answer"]) for r in medical if r["answer"]]
    if texts == "mixed":
        rows = short[: count // 2] + long[: count - count // 2]
    else:
        cut = [(a, b.split(". ")[0]) for a, b in short]
        most = sorted(long, key=lambda row: -len(row[1]))[: max(1, count // 16)]
        rows = cut[: count - len(most)] + most
    generator.shuffle(rows)
    return rows[:count]


def ours(arguments: argparse.Namespace, rows: list[tuple[str, str]], cached: bool) -> list[float]:
    """Return the tokens a second of each step."""
    from opengte import checkpoint
    from opengte.data import BatchLoader, BatchSampler, Dataset
    from opengte.data.preparation.prepare import prepare
    from opengte.data.preparation.source_tokenizer import SourceTokenizer
    from opengte.data.reading.sources import SourceSpec
    from opengte.train.distributed import join_processes
    from opengte.train.loop import train
    from opengte.train.models.loading import load_trainable
    from opengte.train.models.trainable import TrainableModel
    from opengte.train.objectives import Contrastive
    from opengte.train.reporting.training_log import STEPS, read_table
    from opengte.train.settings import TrainingSettings

    found = checkpoint.read_checkpoint(arguments.model, offline=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
            for query, positive in rows:
                file.write(json.dumps({"query": query, "positive": positive}) + "\n")
        encoding = SourceTokenizer(found.tokenizer, found.prompts, MAX_TOKENS, MAX_TOKENS)
        prepare([SourceSpec("rows", (folder / "rows.jsonl",))], folder / "shards", encoding)
        dataset = Dataset.open(folder / "shards")
        order = BatchSampler.of(dataset, seed=0, batch=arguments.batch)
        trainable = TrainableModel(load_trainable(found), ("dense",), arguments.precision)
        objective = Contrastive("info_nce", temperature=0.05)
        tokens = [BatchLoader(dataset, order, ahead=0).at(s).tokens for s in range(arguments.steps)]
        chunk = arguments.chunk_tokens
        if cached:
            chunk = -(-max(tokens) // arguments.chunks)
        settings = TrainingSettings(
            steps=arguments.steps,
            clip=1.0,
            chunk_tokens=chunk,
            memory=1e-6 if cached else 16.0,
            precision=arguments.precision,
            save_every=None,
            log_every=1,
            progress=False,
            peak_tflops=1.0,
        )
        run = folder / "run"
        train(
            trainable,
            lambda start, rank, size: BatchLoader(
                dataset, order, start=start, rank=rank, world=size
            ),
            objective,
            settings,
            run,
            world=join_processes(arguments.device),
        )
        lines = read_table(run / "log.csv")
        assert len(read_table(run / STEPS)) == arguments.steps
        waits = [float(line["loader_wait"]) for line in lines[SKIP:]]
        note(f"loader wait {max(waits):.2f} %, padding {float(lines[-1]['padding']):.1f} %, ")
        note(f"peak memory {float(lines[-1]['memory']):.2f} GiB\n")
        return [float(line["tokens_per_second"]) for line in lines[SKIP:]]


def theirs(arguments: argparse.Namespace, rows: list[tuple[str, str]], cached: bool) -> list[float]:
    """Return the tokens a second of each step, special tokens counted, padding not."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from transformers import TrainerCallback

    from opengte import checkpoint

    model = SentenceTransformer(
        str(checkpoint.read_checkpoint(arguments.model, offline=True).folder)
    )
    model.max_seq_length = MAX_TOKENS
    counted: list[int] = []
    forward = model.forward

    def counting(features: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or not cached:
            counted[-1] += int(features["attention_mask"].sum())
        return forward(features, *args, **kwargs)

    model.forward = counting
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            counted.append(0)
            if not times:
                times.append(time.perf_counter())

        def on_step_end(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    if cached:
        size = -(-arguments.batch // arguments.chunks)
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size)
    else:
        loss = losses.MultipleNegativesRankingLoss(model)
    with tempfile.TemporaryDirectory() as folder:
        settings = SentenceTransformerTrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=arguments.batch,
            max_steps=arguments.steps,
            learning_rate=2e-5,
            warmup_steps=0.05,
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=arguments.device == "cpu",
            bf16=arguments.precision == "bf16",
            dataloader_pin_memory=False,
        )
        table = Dataset.from_dict(
            {"anchor": [q for q, _ in rows], "positive": [p for _, p in rows]}
        )
        trainer = SentenceTransformerTrainer(
            model=model, args=settings, train_dataset=table, loss=loss, callbacks=[Clock()]
        )
        trainer.train()
    seconds = [after - before for before, after in zip(times, times[1:], strict=False)]
    return [n / s for n, s in zip(counted, seconds, strict=True)][SKIP:]


def note(text: str) -> None:
    """Say something beside the table."""
    sys.stderr.write(text)


def arm(arguments: argparse.Namespace) -> float:
    """Return the mean tokens a second of one arm."""
    torch.set_num_threads(arguments.threads)
    rows = pairs(arguments.data, arguments.texts, arguments.batch * (arguments.steps + 4))
    run = ours if arguments.arm.startswith("ours") else theirs
    rates = run(arguments, rows, arguments.arm.endswith("-cached"))
    return len(rates) / sum(1 / rate for rate in rates)


def main() -> None:
    """Time every arm in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--texts", choices=tuple(TARGETS), default="mixed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--chunk-tokens", type=int, default=None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--arm", choices=ARMS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if arguments.arm:
        print(arm(arguments))
        return
    rates = {}
    for name in ARMS:
        command = [sys.executable, __file__, *sys.argv[1:], "--arm", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rates[name] = float(done.stdout.split()[-1])
        print(f"{name:14} {rates[name]:9.0f} tokens/s", flush=True)
    print(f"\n{'figure':34} {'found':>6} {'target':>7}")
    target = TARGETS[arguments.texts]
    for name, found, wanted in (
        ("plain / theirs", rates["ours"] / rates["theirs"], target),
        ("cached / theirs cached", rates["ours-cached"] / rates["theirs-cached"], target),
        ("gradient cache / plain", rates["ours-cached"] / rates["ours"], 0.7),
    ):
        print(f"{arguments.texts + ': ' + name:34} {found:6.2f} {wanted:7.2f}")


if __name__ == "__main__":
    main()
