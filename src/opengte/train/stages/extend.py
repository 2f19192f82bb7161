"""Stage 4, a longer context: a larger base of the rotary angles, more positions, long texts.

Needle and passkey (`gte eval needle`) say whether the model sees what is in them.
"""

from dataclasses import dataclass
from typing import Literal

from opengte import checkpoint as checkpoints
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.errors import InputError
from opengte.train.models import load_trainable
from opengte.train.objectives import Contrastive
from opengte.train.stages.positions import as_read, theta_of, with_rope
from opengte.train.stages.recipe import Recipe, course
from opengte.train.stages.work import Done, Job, carry_out, product


@dataclass(frozen=True, kw_only=True)
class Extension(Recipe):
    """Four times the positions unless told otherwise; the base grows with their square.

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


def extend(start: Checkpoint, data: Dataset, job: Job, recipe: Extension | None = None) -> Done:
    """Give an encoder a longer context, and train it on pairs with long texts."""
    recipe = recipe or Extension()
    positions = recipe.positions or 4 * start.plan.max_positions
    if positions <= start.plan.max_positions:
        raise InputError(
            f"positions is {positions}, expected more than the {start.plan.max_positions} that "
            f"`{start.name}` has"
        )
    rope = start.plan.layers[0].attention.rope
    growth = positions / start.plan.max_positions
    theta = recipe.theta or theta_of(start.plan) * growth**2
    config = with_rope(
        checkpoints.read_json_config(start.folder / "config.json"),
        theta,
        factor=rope.ntk_factor if rope is not None else 1.0,
        positions=positions,
    )
    plan = as_read(start.plan, config)
    model = load_trainable(start, plan, seed=recipe.seed)
    objective = Contrastive(recipe.loss, temperature=recipe.temperature)
    notes = f"Extended from {start.plan.max_positions} to {positions} tokens."
    made = product(start, notes, config=config, plan=plan, max_length=positions)
    return carry_out(start, model, data, course(data, recipe), objective, recipe, job, made)
