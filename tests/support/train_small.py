"""A tiny model from nothing and tiny data, for tests of the stages and their commands."""

import random
from pathlib import Path
from typing import Any

from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.data.preparation.prepare import prepare
from opengte.data.preparation.source_tokenizer import SourceTokenizer
from opengte.data.reading.sources import SourceSpec
from opengte.tokenization import Prompts
from opengte.train.stages.base_models import create_model
from opengte.train.stages.runner import StageJob
from tests.support.training_data import write_lines

SUBJECTS = "red blue green quick lazy old new small big cold".split()
THINGS = "cat dog river mountain algorithm document capital mat query passage".split()
VERBS = "sorts eats finds reads makes".split()
OPTIONS: dict[str, Any] = {"progress": False, "peak_tflops": 1.0, "save_every": None}


def sentence(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(SUBJECTS + THINGS + VERBS) for _ in range(count))


def pairs(count: int, seed: int = 0, negatives: int = 0, words: int = 6) -> list[dict[str, Any]]:
    """Queries whose words are in their positives, in another order."""
    draw, rows = random.Random(seed), []
    for number in range(count):
        query = f"{sentence(draw, 3)} {number % 97}"
        own = query.split()
        draw.shuffle(own)
        row: dict[str, Any] = {
            "query": query,
            "positive": f"{' '.join(own)} {sentence(draw, words)}",
        }
        if negatives:
            row["negative"] = [sentence(draw, words + 4) for _ in range(negatives)]
        rows.append(row)
    return rows


def texts() -> list[str]:
    return [text for row in pairs(300) for text in (row["query"], row["positive"])]


def model(folder: Path, **options: Any) -> Checkpoint:
    settings: dict[str, Any] = {"size": "tiny", "vocabulary": 400, "positions": 64}
    return create_model(folder / "nothing", texts(), **(settings | options))


def data(
    folder: Path, start: Checkpoint, rows: list[dict[str, Any]], name: str = "rows", **options: Any
) -> Dataset:
    file = write_lines(folder / f"{name}.jsonl", rows)
    lengths = {"query_tokens": 64, "document_tokens": 64}
    prompts = options.pop("prompts", start.prompts)
    encoding = SourceTokenizer(start.tokenizer, prompts, **(lengths | options))
    prepare([SourceSpec(name, (file,))], folder / f"{name}-data", encoding)
    return Dataset.open(folder / f"{name}-data", start.tokenizer.fingerprint)


def job(folder: Path, dev: Dataset | None = None, **options: Any) -> StageJob:
    return StageJob(output=folder / "out", dev=dev, options=OPTIONS, **options)


PLAIN = Prompts()
