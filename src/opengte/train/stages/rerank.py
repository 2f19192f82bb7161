"""Stage 6, a reranker: an encoder or decoder that reads query and document together (mGTE).

Starts from masked language modelling or any later stage; ten negatives per query, softmax over
them.
"""

from dataclasses import dataclass, replace
from typing import Literal

from opengte import arch, checkpoint_files
from opengte.arch.plan import ScoreHead
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.data.sampling.sampler import LengthBuckets
from opengte.train.models.loading import load_trainable
from opengte.train.models.lora import Adapters
from opengte.train.objectives import Ranking
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage

# tokens of a row's longest text, rows of a batch: mGTE, appendix B.4
BUCKETS = ((500, 512), (1000, 384), (2000, 256), (3000, 160), (8000, 80))


@dataclass(frozen=True, kw_only=True)
class RerankerRecipe(Recipe):
    """mGTE's numbers: ten negatives a query; 512 tokens for both texts, or the model's positions.

    distil is the weight of a teacher's scores, where rows have them.
    """

    largest: int = 512
    buckets: LengthBuckets = BUCKETS
    learning_rate: float = 2e-5
    negatives: int | None = 10
    max_length: int = 512
    loss: Literal["softmax", "binary"] = "softmax"
    distil: float = 0.0
    adapters: Adapters | None = None


def train_reranker(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: RerankerRecipe | None = None
) -> StageResult:
    """Train a cross-encoder on rows with negatives, prepared without prompts."""
    recipe = recipe or RerankerRecipe()
    config = checkpoint_files.read_json_config(start.folder / "config.json")
    plan = replace(start.plan, score=score_head(config), sparse=False, token_width=0, dense=())
    length = min(recipe.max_length, start.plan.max_positions)
    model = load_trainable(start, plan, seed=recipe.seed)
    objective = Ranking(start.tokenizer, length, recipe.loss, distil=recipe.distil)
    made = export_spec(start, "Scores a query with a document.", plan=plan, max_length=length)
    return run_stage(
        start,
        model,
        data,
        schedule_batches(data, recipe, recipe.buckets),
        objective,
        recipe,
        job,
        made,
        adapters=recipe.adapters,
    )


def score_head(config: dict[str, object]) -> ScoreHead:
    """Return the head of an architecture's classifier with one class."""
    classifier = {**config, "architectures": ["ForSequenceClassification"], "num_labels": 1}
    head = arch.plan_of(classifier).score
    assert head is not None
    return head
