"""Stage 5, instruction tuning of a decoder (gte-Qwen2, E5-mistral: arXiv 2401.00368).

A Qwen2 decoder with bidirectional attention and last-token pooling; the task's instruction goes
before queries only. Trains all weights, or low-rank adapters (LoRA) that are merged on export.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opengte import checkpoint_files, hub
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.errors import InputError
from opengte.published_models import WEB_SEARCH
from opengte.train.models.loading import load_trainable
from opengte.train.models.lora import Adapters
from opengte.train.objectives import Contrastive
from opengte.train.stages.base_models import read_encoder
from opengte.train.stages.finetune import matryoshka_weights
from opengte.train.stages.recipe import Recipe, schedule_batches
from opengte.train.stages.rope import DECODERS
from opengte.train.stages.runner import StageJob, StageResult, export_spec, run_stage

TEMPLATE = "Instruct: {instruction}\nQuery: "


@dataclass(frozen=True, kw_only=True)
class InstructionRecipe(Recipe):
    """E5-mistral's numbers: batches of 2048, rank 16, temperature 0.02 with one hard negative."""

    largest: int = 2048
    learning_rate: float = 1e-4
    weight_decay: float = 0.1
    query_tokens: int | None = 512
    document_tokens: int | None = 512
    negatives: int | None = 1
    temperature: float = 0.02
    loss: Literal["improved", "info_nce"] = "improved"
    margin: float | None = 0.1
    matryoshka: tuple[int, ...] = ()
    adapters: Adapters | None = Adapters(16, 32.0)


def read_decoder(model: str | Path, into: Path, *, causal: bool = False) -> Checkpoint:
    """Read a decoder as an embedder that takes instructions; `into` gets changed files.

    Every text then ends with the eos_token, whose state is its vector. Raises InputError if the
    model is no decoder.
    """
    config = checkpoint_files.read_json_config(hub.fetch_model(str(model)).folder / "config.json")
    if config.get("model_type") not in DECODERS:
        raise InputError(
            f"`{model}` is of type {config.get('model_type')!r}, expected a decoder: "
            f"{', '.join(DECODERS)}. `gte train finetune` is for encoders."
        )
    query = TEMPLATE.replace("{instruction}", WEB_SEARCH)
    start = read_encoder(
        model,
        into,
        pooling="last",
        config={"is_causal": causal},
        tokenizer={"add_eos_token": True},
        prompts={"query": query, "document": ""},
    )
    end_with_eos(into)
    return start


def end_with_eos(folder: Path) -> None:
    """Make tokenizer.json append the eos_token, for programs that read only that file."""
    from tokenizers import Tokenizer, processors

    path = folder / "tokenizer.json"
    named = checkpoint_files.read_json_config(folder / "tokenizer_config.json").get("eos_token")
    eos = named.get("content") if isinstance(named, dict) else named
    if not path.is_file() or not isinstance(eos, str):
        return
    tokenizer = Tokenizer.from_file(str(path))
    number = tokenizer.token_to_id(eos)
    ids = tokenizer.encode("a").ids
    if number is None or (ids and ids[-1] == number):
        return
    added = processors.TemplateProcessing(
        single=f"$A {eos}", pair=f"$A $B:1 {eos}:1", special_tokens=[(eos, number)]
    )
    before = tokenizer.post_processor
    tokenizer.post_processor = processors.Sequence([before, added]) if before else added
    path.unlink()  # may be a link, which must not be written through
    tokenizer.save(str(path))


def tune_instructions(
    start: Checkpoint, data: Dataset, job: StageJob, recipe: InstructionRecipe | None = None
) -> StageResult:
    """Train a decoder that `read_decoder` returned; its data must be prepared with it."""
    recipe = recipe or InstructionRecipe()
    model = load_trainable(start, seed=recipe.seed)
    objective = Contrastive(
        recipe.loss,
        temperature=recipe.temperature,
        margin=recipe.margin,
        dimensions=matryoshka_weights(recipe.matryoshka, start.plan.dimension),
    )
    made = export_spec(start, "Tuned to follow instructions, which go before queries.")
    return run_stage(
        start,
        model,
        data,
        schedule_batches(data, recipe),
        objective,
        recipe,
        job,
        made,
        adapters=recipe.adapters,
    )
