"""Scores of a teacher for training data: files of rows with mined negatives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opengte.cli.common.progress import progress_bar
from opengte.cli.data.options import embed_dense, print_columns
from opengte.cli.train.data import say_mined

if TYPE_CHECKING:
    from opengte.data.mining.hard_negatives import MiningSettings
    from opengte.data.reading.sources import SourceSpec
    from opengte.types import Floats


@dataclass(frozen=True)
class Teacher:
    """An encoder that mines, and scores unless a reranker does."""

    model: str
    reranker: str | None
    negatives: "MiningSettings"


def scored_file(spec: "SourceSpec", folder: Path) -> Path:
    """Return where the scored rows of a source are."""
    return folder / f"{spec.name}.scored.jsonl"


def score_sources(specs: "Sequence[SourceSpec]", folder: Path, teacher: Teacher) -> None:
    """Write the scored rows of each source, where they are not there yet."""
    from opengte.data.mining.files import MiningModels, mine_hard_negatives
    from opengte.encoder import Encoder, Reranker

    missing = [spec for spec in specs if not scored_file(spec, folder).exists()]
    if not missing:
        return
    folder.mkdir(parents=True, exist_ok=True)
    encoder = Encoder.load(teacher.model)
    judge = None if teacher.reranker is None else Reranker.load(teacher.reranker)
    for spec in missing:
        print_columns(spec)

        def queries(texts: Sequence[str], task: str | None = spec.instruction) -> "Floats":
            return embed_dense(encoder, texts, "query", task)

        def documents(texts: Sequence[str]) -> "Floats":
            return embed_dense(encoder, texts, "document", None)

        def similarities(query: str, texts: Sequence[str]) -> "Floats":
            found: Floats = documents(texts) @ queries([query])[0]
            return found

        models = MiningModels(
            queries=queries,
            documents=documents,
            identity={"model": encoder.card.fingerprint, "instruction": spec.instruction},
            score=similarities if judge is None else judge.score,
            write_scores=True,
        )
        with progress_bar("texts") as advance:
            found = mine_hard_negatives(
                [spec],
                scored_file(spec, folder),
                models,
                teacher.negatives,
                copy=True,
                advance=advance,
            )
        say_mined(spec.name, found, teacher.negatives)
