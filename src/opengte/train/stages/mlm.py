"""Stage 1: masked language modelling of an encoder (mGTE, arXiv 2407.19669, section 2.1).

30 % of the tokens are masked. Two phases: short texts first, then long ones with a larger base of
the rotary angles. Sequences are packed, and the head is computed for masked tokens only.
"""

from dataclasses import dataclass, replace

from opengte import arch, checkpoint_files
from opengte import checkpoint as checkpoints
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.errors import InputError
from opengte.tokenization import Tokenizer
from opengte.train.models.loading import load_trainable
from opengte.train.objectives import MaskedTokens
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.rope import plan_with_positions, with_rope
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage


@dataclass(frozen=True)
class MlmPhase:
    """One context length: its tokens, the base of the rotary angles, its share of the budget."""

    length: int
    theta: float
    largest: int  # rows of the paper's batch
    learning_rate: float
    share: float


PHASES = (
    MlmPhase(2048, 10_000.0, 8192, 5e-4, 0.9),
    MlmPhase(8192, 160_000.0, 2048, 5e-5, 0.1),
)


@dataclass(frozen=True, kw_only=True)
class MlmRecipe(Recipe):
    """mGTE's numbers: decoupled weight decay of 1e-5, no clipping, dropout 0.1.

    For a model with fewer positions the phases are shortened in proportion. learning_rate
    multiplies the rates of the phases (1: unchanged).
    """

    phases: tuple[MlmPhase, ...] = PHASES
    rate: float = 0.3
    learning_rate: float = 1.0
    warmup: float = 0.06
    weight_decay: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-6
    clip: float | None = None
    dropout: float = 0.1


def pretrain_mlm(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: MlmRecipe | None = None
) -> StageResult:
    """Train an encoder to predict masked tokens of raw texts, phase after phase.

    Prepare texts at the length of the last phase; shorter preparation splits longer texts.
    """
    recipe = recipe or MlmRecipe()
    objective = mlm_objective(start.tokenizer, start.plan.embedding.vocabulary, recipe.rate)
    config = checkpoint_files.read_json_config(start.folder / "config.json")
    rotary = start.plan.layers[0].attention.rope is not None
    checkpoint, first, steps = start, None, 0
    phases = fit_phases(recipe.phases, start.plan.max_positions)
    for number, phase in enumerate(phases, 1):
        if rotary:
            config = with_rope(config, phase.theta)
        plan = plan_with_positions(arch.with_masked_head(checkpoint.plan), config)
        model = load_trainable(checkpoint, plan, seed=recipe.seed)
        own = _of_phase(recipe, phase, number)
        made = export_spec(start, NOTES, config=config, plan=plan)
        done = run_stage(
            checkpoint,
            model,
            data,
            schedule_batches(data, own),
            objective,
            own,
            job,
            made,
            part=f"phase-{number}",
            last=number == len(phases),
        )
        first = done.before if first is None else first
        steps += done.steps
        if done.model is None:
            return replace(done, before=first, steps=steps)
        checkpoint = checkpoints.read_checkpoint(done.model, kind="encoder")
    return replace(done, before=first or {}, steps=steps)


NOTES = (
    "Pre-trained by masked language modelling. Its vectors are of little use before contrastive "
    "training."
)


def mlm_objective(tokenizer: Tokenizer, vocabulary: int, rate: float) -> MaskedTokens:
    """Return the objective for a tokenizer; InputError if it has no mask token."""
    if "mask" not in tokenizer.named:
        raise InputError(
            "the tokenizer names no mask_token, which masked language modelling needs: name it in "
            "tokenizer_config.json, or take another model"
        )
    special = tuple(sorted(tokenizer.special_ids))
    return MaskedTokens(tokenizer.named["mask"], vocabulary, special, rate)


def fit_phases(phases: tuple[MlmPhase, ...], positions: int) -> tuple[MlmPhase, ...]:
    """Return phases no longer than a model's positions, all shortened by the same factor."""
    longest = max(phase.length for phase in phases)
    if longest <= positions:
        return phases
    return tuple(replace(p, length=max(8, p.length * positions // longest)) for p in phases)


def _of_phase(recipe: MlmRecipe, phase: MlmPhase, number: int) -> MlmRecipe:
    def part(value: int | None) -> int | None:
        return None if value is None else max(1, round(value * phase.share))

    return replace(
        recipe,
        phases=(phase,),
        largest=phase.largest,
        learning_rate=phase.learning_rate * recipe.learning_rate,
        steps=part(recipe.steps),
        tokens=part(recipe.tokens),
        epochs=recipe.epochs * phase.share,
        query_tokens=phase.length,
        seed=recipe.seed + number - 1,
    )
