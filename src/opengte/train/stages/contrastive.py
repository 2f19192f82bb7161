"""Stage 2: weakly supervised contrastive pre-training (GTE, arXiv 2308.03281; mGTE).

Large batches of one source each, temperature 0.01, the improved contrastive loss, short texts.
Reversed NTK: rotary angles are trained with a base divided by a factor, so that short texts use the
angles of long ones; the exported config.json has an NTK factor of the same size.
"""

from dataclasses import dataclass
from typing import Literal

from opengte import checkpoint_files
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.train.models.loading import load_trainable
from opengte.train.objectives import Contrastive
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.rope import plan_with_positions, with_rope
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage


@dataclass(frozen=True, kw_only=True)
class ContrastiveRecipe(Recipe):
    """GTE's numbers: 16,384 pairs a batch, one epoch; mGTE's lengths are 512 and 1024.

    reversed_ntk None takes the number of times that document_tokens fit into the positions of a
    `new` model, and 1 for other architectures.
    """

    largest: int = 16384
    learning_rate: float = 2e-4
    query_tokens: int | None = 128
    document_tokens: int | None = 128
    negatives: int | None = 0  # of the batch only
    temperature: float = 0.01
    loss: Literal["improved", "info_nce"] = "improved"
    reversed_ntk: float | None = None


def pretrain_contrastive(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: ContrastiveRecipe | None = None
) -> StageResult:
    """Train an encoder on weak pairs: title and body, question and answer, text and translation."""
    recipe = recipe or ContrastiveRecipe()
    factor = ntk_factor(start, recipe)
    config = checkpoint_files.read_json_config(start.folder / "config.json")
    plan, written = start.plan, start.plan
    if factor != 1.0:
        rope = start.plan.layers[0].attention.rope
        assert rope is not None
        config = with_rope(config, rope.theta / factor, factor=factor)
        plan = plan_with_positions(start.plan, with_rope(config, rope.theta / factor))
        written = plan_with_positions(start.plan, config)
    model = load_trainable(start, plan, seed=recipe.seed)
    objective = Contrastive(recipe.loss, temperature=recipe.temperature)
    made = export_spec(start, NOTES, config=config, plan=written)
    return run_stage(
        start, model, data, schedule_batches(data, recipe), objective, recipe, job, made
    )


NOTES = "Trained on weakly supervised pairs."


def ntk_factor(start: Checkpoint, recipe: ContrastiveRecipe) -> float:
    """Return the factor of the reversed NTK scaling."""
    if recipe.reversed_ntk is not None:
        return recipe.reversed_ntk
    rope = start.plan.layers[0].attention.rope
    if start.plan.architecture != "new" or rope is None or rope.ntk_factor != 1.0:
        return 1.0
    longest = max(recipe.query_tokens or 0, recipe.document_tokens or 0)
    return max(1.0, start.plan.max_positions / longest) if longest else 1.0
