"""Late interaction: an encoder gets a vector for each token, trained on MaxSim.

The model is written as PyLate and sentence-transformers read it. Markers are two unused tokens of
the vocabulary where it has them, so that no row of the embedding is added.
"""

from dataclasses import dataclass, replace
from typing import Any

from opengte.arch.plan import Dense
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.tokenization.late import LateFiles
from opengte.tokenization.prompts import Prompts
from opengte.train.models.loading import load_trainable
from opengte.train.models.lora import Adapters
from opengte.train.objectives import LateContrastive
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage

MARKERS = {"query_prefix": "[unused0] ", "document_prefix": "[unused1] "}
TEXTS = {"query_prefix": "query: ", "document_prefix": "document: "}


@dataclass(frozen=True, kw_only=True)
class LateRecipe(Recipe):
    """Contrastive learning on MaxSim, and a teacher's ranking where the rows have its scores.

    width is that of a token vector. distil is the weight of a teacher's scores, by KL divergence.

    >>> LateRecipe(width=96).temperature
    0.02
    """

    largest: int = 128
    learning_rate: float = 3e-5
    negatives: int | None = 4
    query_tokens: int | None = 32
    document_tokens: int | None = 180
    width: int = 128
    temperature: float = 0.02
    distil: float = 1.0
    teacher_temperature: float = 1.0
    margin: float | None = None
    adapters: Adapters | None = None


def late_start(start: Checkpoint, recipe: LateRecipe) -> Checkpoint:
    """Return an encoder's checkpoint as a late-interaction model that is still to be trained.

    Its prompts, tokenizer and plan are those of the trained model. Its weights are not: read them
    from `start`.
    """
    settings = late_settings(start, recipe)
    plan = replace(
        start.plan,
        pooling=None,
        latent=None,
        dense=(),
        sparse=False,
        score=None,
        masked=None,
        token_width=recipe.width,
        token_dense=(Dense(recipe.width, False, "identity"),),
    )
    prompts = Prompts(query=settings["query_prefix"], document=settings["document_prefix"])
    files = LateFiles(start.folder, settings, {}, {})
    return replace(start, plan=plan, prompts=prompts, late_files=files)


def late_settings(start: Checkpoint, recipe: LateRecipe) -> dict[str, Any]:
    """Return what config_sentence_transformers.json says of a late-interaction model."""
    tokenizer = start.tokenizer
    unused = all(tokenizer.token_id(marker.strip()) is not None for marker in MARKERS.values())
    return {
        "model_type": "ColBERT",
        **(MARKERS if unused else TEXTS),
        "query_length": min(recipe.query_tokens or start.max_length, start.max_length),
        "document_length": min(recipe.document_tokens or start.max_length, start.max_length),
        "do_query_expansion": False,
        "attend_to_expansion_tokens": False,
        "skiplist_words": [],
        "similarity_fn_name": "maxsim",
        "prompts": {},
        "default_prompt_name": None,
    }


def train_late(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: LateRecipe | None = None
) -> StageResult:
    """Train an encoder for late interaction, on rows prepared as `late_start` reads them."""
    recipe = recipe or LateRecipe()
    ready = late_start(start, recipe)
    model = load_trainable(start, ready.plan, seed=recipe.seed)
    objective = LateContrastive(
        "info_nce",
        temperature=recipe.temperature,
        margin=recipe.margin,
        distil=recipe.distil,
        teacher_temperature=recipe.teacher_temperature,
    )
    made = export_spec(
        start,
        "Late interaction: a vector for each token, scored by MaxSim.",
        plan=ready.plan,
        prompts=ready.prompts,
        late=late_settings(start, recipe),
    )
    order = schedule_batches(data, recipe)
    return run_stage(
        start, model, data, order, objective, recipe, job, made, adapters=recipe.adapters
    )
