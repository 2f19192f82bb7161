"""Stage 4, a longer context: a larger base of the rotary angles, more positions, long texts.

Needle and passkey tests (`gte eval needle`) show whether the model uses the added positions.
"""

from dataclasses import dataclass
from typing import Literal

from opengte import checkpoint_files
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.errors import InputError
from opengte.train.models.loading import load_trainable
from opengte.train.objectives import Contrastive
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.rope import plan_with_positions, rope_theta, with_rope
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage


@dataclass(frozen=True, kw_only=True)
class ExtensionRecipe(Recipe):
    """Four times the positions by default; the base of the rotary angles grows with their square.

    theta None takes the old base times the square of the growth: mGTE went from 10,000 at 2048
    tokens to 160,000 at 8192.
    """

    positions: int | None = None
    theta: float | None = None
    largest: int = 1024
    learning_rate: float = 5e-5
    warmup: float = 0.06
    temperature: float = 0.01
    loss: Literal["improved", "info_nce"] = "improved"


def extend_context(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: ExtensionRecipe | None = None
) -> StageResult:
    """Give an encoder a longer context, and train it on pairs with long texts."""
    recipe = recipe or ExtensionRecipe()
    positions = recipe.positions or 4 * start.plan.max_positions
    if positions <= start.plan.max_positions:
        raise InputError(
            f"positions is {positions}, expected more than the {start.plan.max_positions} that "
            f"`{start.name}` has"
        )
    rope = start.plan.layers[0].attention.rope
    growth = positions / start.plan.max_positions
    theta = recipe.theta or rope_theta(start.plan) * growth**2
    config = with_rope(
        checkpoint_files.read_json_config(start.folder / "config.json"),
        theta,
        factor=rope.ntk_factor if rope is not None else 1.0,
        positions=positions,
    )
    plan = plan_with_positions(start.plan, config)
    model = load_trainable(start, plan, seed=recipe.seed)
    objective = Contrastive(recipe.loss, temperature=recipe.temperature)
    notes = f"Extended from {start.plan.max_positions} to {positions} tokens."
    made = export_spec(start, notes, config=config, plan=plan, max_length=positions)
    return run_stage(
        start, model, data, schedule_batches(data, recipe), objective, recipe, job, made
    )
