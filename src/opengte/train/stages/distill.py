"""Stage 7, distillation: a smaller encoder that ranks documents as its teacher does.

The rows' scores are the teacher's (`gte data mine --scores`, or those of `gte train distill`); the
student is a model of its own, or the teacher with some of its layers.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from opengte import checkpoint as checkpoints
from opengte import checkpoint_files
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.errors import InputError
from opengte.train.models.loading import load_trainable
from opengte.train.objectives import Contrastive
from opengte.train.saving.export import ExportPackage, export_model
from opengte.train.saving.model_card import TrainedModelCard
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage


@dataclass(frozen=True, kw_only=True)
class DistillationRecipe(Recipe):
    """The teacher's ranking by KL divergence or MarginMSE, beside the contrastive loss."""

    largest: int = 128
    learning_rate: float = 1e-4
    negatives: int | None = 8
    temperature: float = 0.05
    teacher_temperature: float = 0.05
    weight: float = 1.0
    by: Literal["kl", "margin_mse"] = "kl"
    loss: Literal["improved", "info_nce"] = "info_nce"


def distill(
    student: Checkpoint, data: Dataset, job: StageJob, recipe: DistillationRecipe | None = None
) -> StageResult:
    """Train a student on rows with a teacher's scores."""
    recipe = recipe or DistillationRecipe()
    model = load_trainable(student, seed=recipe.seed)
    objective = Contrastive(
        recipe.loss,
        temperature=recipe.temperature,
        distil=recipe.weight,
        distil_by=recipe.by,
        teacher_temperature=recipe.teacher_temperature,
    )
    made = export_spec(student, "Distilled from a larger model.")
    return run_stage(
        student, model, data, schedule_batches(data, recipe), objective, recipe, job, made
    )


def drop_layers(teacher: Checkpoint, layers: int, folder: Path) -> Checkpoint:
    """Write a model with evenly spaced layers of another, its last one included, and read it."""
    total = len(teacher.plan.layers)
    if not 1 <= layers < total:
        raise InputError(f"layers is {layers}, expected 1 to {total - 1}, fewer than the teacher's")
    kept = [round((i + 1) * total / layers) - 1 for i in range(layers)]
    config = checkpoint_files.read_json_config(teacher.folder / "config.json") | {
        "num_hidden_layers": layers
    }
    if "layer_types" in config:
        config["layer_types"] = [config["layer_types"][place] for place in kept]
    model = load_trainable(teacher)
    model.plan = replace(teacher.plan, layers=tuple(teacher.plan.layers[p] for p in kept))
    model.layers = type(model.layers)(model.layers[place] for place in kept)
    notes = f"Layers {', '.join(map(str, kept))} of `{teacher.name}`: a student to train."
    card = TrainedModelCard(
        name=folder.name, base_model=teacher.name, licence=teacher.licence, notes=notes
    )
    export_model(
        model,
        folder,
        ExportPackage(
            json.loads(json.dumps(config)),
            teacher.folder,
            teacher.max_length,
            teacher.prompts,
            card,
        ),
    )
    return checkpoints.read_checkpoint(folder, kind="encoder")
