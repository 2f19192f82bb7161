"""Stage 5, instruction tuning of a decoder (gte-Qwen2, E5-mistral: arXiv 2401.00368).

A Qwen2 decoder with bidirectional attention, the last token's state as the vector, and the task as
an instruction before queries only. All weights or low-rank adapters (LoRA), merged when written.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from opengte import checkpoint as checkpoints
from opengte import hub
from opengte.checkpoint import Checkpoint
from opengte.data import Dataset
from opengte.errors import InputError
from opengte.published_models import WEB_SEARCH
from opengte.train.lora import Adapters
from opengte.train.models import load_trainable
from opengte.train.objectives import Contrastive
from opengte.train.stages.finetune import sizes
from opengte.train.stages.positions import DECODERS
from opengte.train.stages.recipe import Recipe, course
from opengte.train.stages.start import opened
from opengte.train.stages.work import Done, Job, carry_out, product

TEMPLATE = "Instruct: {instruction}\nQuery: "


@dataclass(frozen=True, kw_only=True)
class Tuning(Recipe):
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


def as_embedder(model: str | Path, into: Path, *, causal: bool = False) -> Checkpoint:
    """Read a decoder as an embedder that takes instructions; into gets what its files do not say.

    A text then ends with the eos_token, whose state is its vector.
    """
    config = checkpoints.read_json_config(hub.fetch_model(str(model)).folder / "config.json")
    if config.get("model_type") not in DECODERS:
        raise InputError(
            f"`{model}` is of type {config.get('model_type')!r}, expected a decoder: "
            f"{', '.join(DECODERS)}. `gte train finetune` is for encoders."
        )
    query = TEMPLATE.replace("{instruction}", WEB_SEARCH)
    start = opened(
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
    """Let tokenizer.json end every text with the eos_token, as other programs read only that."""
    from tokenizers import Tokenizer, processors

    path = folder / "tokenizer.json"
    named = checkpoints.read_json_config(folder / "tokenizer_config.json").get("eos_token")
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
    path.unlink()  # perhaps a link
    tokenizer.save(str(path))


def instruct(start: Checkpoint, data: Dataset, job: Job, recipe: Tuning | None = None) -> Done:
    """Train a decoder that was read by `as_embedder`; its data must be prepared with it."""
    recipe = recipe or Tuning()
    model = load_trainable(start, seed=recipe.seed)
    objective = Contrastive(
        recipe.loss,
        temperature=recipe.temperature,
        margin=recipe.margin,
        dimensions=sizes(recipe.matryoshka, start.plan.dimension),
    )
    made = product(start, "Tuned to follow instructions, which go before queries.")
    return carry_out(
        start,
        model,
        data,
        course(data, recipe),
        objective,
        recipe,
        job,
        made,
        adapters=recipe.adapters,
    )
