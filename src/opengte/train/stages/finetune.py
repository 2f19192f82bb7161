"""Stage 3: supervised contrastive fine-tuning (GTE, arXiv 2308.03281; mGTE, arXiv 2407.19669).

Pairs with mined hard negatives and in-batch negatives, batches by length; optionally Matryoshka
sizes and a sparse head.
"""

from dataclasses import dataclass
from typing import Literal

from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.data.sampling.sampler import LengthBuckets
from opengte.train.models.loading import load_trainable
from opengte.train.models.lora import Adapters
from opengte.train.objectives import Contrastive
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.runner import StageJob, StageResult, export_spec, replaced, run_stage

# tokens of a row's longest text, rows of a batch: mGTE, appendix B.4
BUCKETS = ((500, 768), (1000, 384), (2000, 256), (3000, 160), (8000, 80))


@dataclass(frozen=True, kw_only=True)
class FineTuningRecipe(Recipe):
    """mGTE's numbers: eight hard negatives, temperature 0.05, batches of 768 rows of short texts.

    matryoshka are further sizes of vectors, trained with equal weight; sparse is the weight of the
    sparse loss (mGTE does not publish its own; 0: no sparse head). With adapters only low-rank
    updates are trained.

    >>> FineTuningRecipe(epochs=2, matryoshka=(256, 128)).temperature
    0.05
    """

    largest: int = 768
    buckets: LengthBuckets = BUCKETS
    learning_rate: float = 2e-5
    negatives: int | None = 8
    temperature: float = 0.05
    loss: Literal["improved", "info_nce"] = "improved"
    margin: float | None = 0.1
    matryoshka: tuple[int, ...] = ()
    sparse: float = 0.0
    adapters: Adapters | None = None


def finetune(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: FineTuningRecipe | None = None
) -> StageResult:
    r"""Train an encoder on your own pairs, or on labelled or scored texts.

    The data must be prepared with the tokenizer of `start`. Raises InputError as `train` does.

    >>> from pathlib import Path
    >>> from opengte import checkpoint
    >>> from opengte.data import SourceSpec, SourceTokenizer, prepare
    >>> rows = [f"question {i},answer {i}" for i in range(8)]
    >>> _ = Path("faq.csv").write_text("\n".join(["query,answer", *rows]))
    >>> start = checkpoint.read_checkpoint(folder)
    >>> tokenizer = SourceTokenizer(start.tokenizer, start.prompts, 32, 32)
    >>> _ = prepare([SourceSpec("faq", (Path("faq.csv"),))], Path("data"), tokenizer)
    >>> job = StageJob(output=Path("tuned"), options={"peak_tflops": 1.0})
    >>> result = finetune(start, Dataset.open("data"), job, FineTuningRecipe(steps=2, batch=4))
    >>> result.model
    PosixPath('tuned/model')
    """
    recipe = recipe or FineTuningRecipe()
    plan = replaced(start, sparse=start.plan.sparse or recipe.sparse > 0)
    model = load_trainable(start, plan, seed=recipe.seed)
    objective = Contrastive(
        recipe.loss,
        temperature=recipe.temperature,
        margin=recipe.margin,
        dimensions=matryoshka_weights(recipe.matryoshka, plan.dimension),
        sparse=recipe.sparse,
        special=tuple(sorted(start.tokenizer.special_ids)),
    )
    order = schedule_batches(data, recipe, recipe.buckets)
    made = export_spec(start, "Fine-tuned on pairs.", plan=plan)
    return run_stage(
        start, model, data, order, objective, recipe, job, made, adapters=recipe.adapters
    )


def matryoshka_weights(matryoshka: tuple[int, ...], full: int) -> dict[int, float]:
    """Return equal weights for the sizes asked for and the full vector; empty if none are."""
    if not matryoshka:
        return {}
    return dict.fromkeys(sorted({*matryoshka, full}, reverse=True), 1.0)
