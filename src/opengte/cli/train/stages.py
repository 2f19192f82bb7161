"""The commands of `gte train` that train: each a stage."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.data.options import count_type, parse_sources
from opengte.cli.train.data import copied
from opengte.cli.train.kept import DATA, NOTHING
from opengte.cli.train.options import (
    MiningOptions,
    adapters,
    from_nothing_options,
    lora_option,
    matryoshka_option,
    mining_options,
    parse_token_count,
)
from opengte.cli.train.run import StageArguments, created, finish, job, stage_command

if TYPE_CHECKING:
    from opengte.checkpoint import Checkpoint
    from opengte.train.distributed import World


@stage_command("finetune")
@mining_options
@matryoshka_option
@click.option(
    "--sparse",
    type=click.FloatRange(0),
    metavar="WEIGHT",
    help="Also train a sparse head, with this loss weight.",
)
@lora_option
def finetune_command(
    arguments: StageArguments,
    world: "World",
    mining: MiningOptions,
    matryoshka: tuple[int, ...] | None,
    sparse: float | None,
    lora: int | None,
) -> None:
    """Fine-tune an encoder on your pairs, with mined hard negatives.

    Holds out rows, mines negatives with the model itself (4 per row, for rows without any),
    tokenises the texts into FOLDER/data, and evaluates the model before and after training.
    Labelled texts and scored pairs can be used as well.

    \b
    Examples:
      gte train finetune --model minilm --data faq.jsonl --output tuned/
      gte train finetune -m thenlper/gte-base --data nli.jsonl --data qa=qa/ -o out/ --tokens 20M
    """
    from opengte.train.stages import finetune as stage
    from opengte.train.stages.base_models import read_pooled_encoder

    start = read_pooled_encoder(arguments.model, arguments.start)
    own = {"matryoshka": matryoshka, "sparse": sparse, "adapters": adapters(lora)}
    recipe = arguments.numbers.recipe(stage.FineTuningRecipe, **own)
    sources = arguments.sources(start, recipe, mine=mining.settings(4), miner=start)
    train, dev = sources.open(world)
    done = stage.finetune(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world)


@stage_command("pretrain")
@from_nothing_options
def pretrain_command(
    arguments: StageArguments,
    world: "World",
    from_nothing: str | None,
    vocabulary: int,
    positions: int,
) -> None:
    """Pre-train an encoder on raw texts by masked language modelling.

    Masks 30 % of the tokens. Nine tenths of the budget are spent on short pieces, the rest on long
    ones with a larger base of the rotary position embeddings. With --from-nothing, --model is
    `new`.

    \b
    Examples:
      gte train pretrain -m new --from-nothing mini --data texts/ -o mlm/ --tokens 100M
      gte train pretrain --model minilm --data texts.txt.gz --output mlm/ --tokens 20M
    """
    from opengte.train.stages import mlm
    from opengte.train.stages.base_models import read_pooled_encoder

    if from_nothing is None:
        start = read_pooled_encoder(arguments.model, arguments.start)
    else:
        start = created(
            arguments, world, "new", from_nothing, vocabulary, positions, arguments.start
        )
    recipe = arguments.numbers.recipe(mlm.MlmRecipe)
    longest = max(p.length for p in mlm.fit_phases(recipe.phases, start.plan.max_positions))
    data = replace(recipe, query_tokens=longest, document_tokens=longest)
    train, dev = arguments.sources(start, data).open(world)
    done = mlm.pretrain_mlm(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world)


@stage_command("contrastive")
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), help="Temperature of the softmax."
)
@click.option(
    "--reversed-ntk",
    type=click.FloatRange(1),
    metavar="FACTOR",
    help="Factor of reversed NTK scaling, by which positions of long texts are "
    "interpolated; 1 disables it.",
)
def contrastive_command(
    arguments: StageArguments, world: "World", temperature: float | None, reversed_ntk: float | None
) -> None:
    """Pre-train an encoder on weak pairs: large batches, short texts.

    Pairs are titles and bodies, questions and answers, texts and translations. A batch has up to
    16,384 pairs of one source; the temperature is 0.01. This stage turns a masked language model
    into an encoder.

    \b
    Examples:
      gte train contrastive --model mlm/model --data web.jsonl.gz --output cpt/ --tokens 50M
      gte train contrastive -m mlm/model --sources sources.toml -o cpt/ --batch 1024 --steps 5000
    """
    from opengte.train.stages import contrastive as stage
    from opengte.train.stages.base_models import read_pooled_encoder

    start = read_pooled_encoder(arguments.model, arguments.start)
    own = {"temperature": temperature, "reversed_ntk": reversed_ntk}
    recipe = arguments.numbers.recipe(stage.ContrastiveRecipe, **own)
    train, dev = arguments.sources(start, recipe).open(world)
    done = stage.pretrain_contrastive(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world)


@stage_command("extend")
@click.option(
    "--positions",
    type=parse_token_count,
    metavar="N",
    help="New maximum length in tokens.  [default: 4 x]",
)
@click.option("--theta", type=click.FloatRange(1), help="Base of the rotary position embeddings.")
@click.option(
    "--check/--no-check", default=True, help="Run the needle and passkey tests afterwards."
)
def extend_command(
    arguments: StageArguments,
    world: "World",
    positions: int | None,
    theta: float | None,
    check: bool,
) -> None:
    """Give an encoder with rotary positions a longer context.

    Trains on pairs with long texts. Then runs the needle and passkey tests on documents as long as
    the new context, with the model before and after.

    \b
    Examples:
      gte train extend --model cpt/model --data long.jsonl --output long/ --positions 8192
      gte train extend -m cpt/model --data long.jsonl -o long/ --theta 160000 --tokens 20M
    """
    from opengte.train.stages import extend as stage
    from opengte.train.stages.base_models import read_pooled_encoder

    start = read_pooled_encoder(arguments.model, arguments.start)
    recipe = arguments.numbers.recipe(stage.ExtensionRecipe, positions=positions, theta=theta)
    longest = recipe.positions or 4 * start.plan.max_positions
    room = replace(start, plan=replace(start.plan, max_positions=longest))
    data = replace(recipe, document_tokens=recipe.document_tokens or longest)
    train, dev = arguments.sources(room, data).open(world)
    done = stage.extend_context(start, train, job(arguments, world, dev), recipe)
    exporting = click.get_current_context().obj is not None
    if done.model is not None and check and world.is_first and not exporting:
        _sees(start, done.model, longest)
    finish(arguments, done, world)


def _sees(start: "Checkpoint", model: Path, length: int) -> None:
    """Say how often needle and passkey are found, before and after."""
    from opengte.encoder import Encoder
    from opengte.evaluate import needle

    short = [n for n in (length // 4, length // 2, length) if n >= 64]
    for name, encoder in (("before", Encoder.load(start.folder)), ("after", Encoder.load(model))):
        for found in (needle.run_needle_test(encoder, lengths=[n], documents=10) for n in short):
            tokens = found[0].length
            for kind in needle.KINDS:
                cells = [one.accuracy for one in found if one.kind == kind]
                share = sum(cells) / len(cells)
                click.echo(f"{kind} in {tokens:,} tokens, {name}: {share:.2f}", err=True)


@stage_command("instruct")
@mining_options
@matryoshka_option
@lora_option
@click.option("--causal", is_flag=True, help="Keep causal attention.")
@from_nothing_options
def instruct_command(
    arguments: StageArguments,
    world: "World",
    mining: MiningOptions,
    matryoshka: tuple[int, ...] | None,
    lora: int | None,
    causal: bool,
    from_nothing: str | None,
    vocabulary: int,
    positions: int,
) -> None:
    """Turn a decoder into an instruction-tuned encoder.

    Attention becomes bidirectional, and pooling takes the last token. The task description
    (--instruction, or each source's own) is prepended to queries, never to documents. Low-rank
    adapters of rank 16 are trained and merged; --lora 0 trains all weights.

    \b
    Examples:
      gte train instruct --model Qwen/Qwen2-1.5B --data qa.jsonl --output qwen/
      gte train instruct -m Qwen/Qwen2-1.5B --sources tasks.toml -o qwen/ --lora 0
    """
    from opengte import checkpoint as checkpoints
    from opengte.train.stages import instruct as stage

    model: str | Path = arguments.model
    if from_nothing is not None:
        model = arguments.output / NOTHING
        created(arguments, world, "qwen2", from_nothing, vocabulary, positions, model)
    if world.is_first:
        stage.read_decoder(model, arguments.start, causal=causal)
    world.wait()
    start = checkpoints.read_checkpoint(arguments.start, kind="encoder")
    recipe = arguments.numbers.recipe(stage.InstructionRecipe, matryoshka=matryoshka)
    if lora is not None:
        recipe = replace(recipe, adapters=adapters(lora))
    sources = arguments.sources(start, recipe, mine=mining.settings(0), miner=start)
    train, dev = sources.open(world)
    done = stage.tune_instructions(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world)


@stage_command("rerank")
@mining_options
@click.option(
    "--miner", metavar="MODEL", help="Encoder that mines the negatives.  [default: --model]"
)
@click.option(
    "--max-length",
    type=parse_token_count,
    metavar="N",
    help="Maximum tokens of query and document together.",
)
@click.option(
    "--loss",
    type=click.Choice(["softmax", "binary"]),
    help="Loss over each query's candidates (softmax) or over single pairs (binary).",
)
@lora_option
def rerank_command(
    arguments: StageArguments,
    world: "World",
    mining: MiningOptions,
    miner: str | None,
    max_length: int | None,
    loss: str | None,
    lora: int | None,
) -> None:
    """Train a reranker (cross-encoder) from an encoder or a decoder.

    Rows need negatives; ten per row are mined if there are none.

    \b
    Examples:
      gte train rerank --model minilm --data faq.jsonl --output reranker/
      gte train rerank -m mlm/model --data mined.jsonl -o reranker/ --max-length 1024
    """
    from opengte import checkpoint as checkpoints
    from opengte.tokenization.prompts import Prompts
    from opengte.train.stages import rerank as stage
    from opengte.train.stages.base_models import read_pooled_encoder

    start = read_pooled_encoder(arguments.model, arguments.start)
    own = {"max_length": max_length, "loss": loss, "adapters": adapters(lora)}
    recipe = arguments.numbers.recipe(stage.RerankerRecipe, **own)
    plain = {"prompts": Prompts()}
    finder = start if miner is None else checkpoints.read_checkpoint(miner, kind="encoder")
    how = {"mine": mining.settings(10), "miner": finder, "mine_dev": True}
    sources = arguments.sources(start, recipe, encoding=plain, **how)
    train, dev = sources.open(world)
    done = stage.train_reranker(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world, loads="Reranker")


@stage_command("distill")
@click.option(
    "--layers", type=count_type, metavar="N", help="Number of the model's layers in the student."
)
@click.option("--student", metavar="MODEL", help="Student model, instead of --layers.")
@click.option(
    "--reranker", metavar="MODEL", help="Reranker that scores as the teacher, instead of the model."
)
@click.option(
    "--by",
    type=click.Choice(["kl", "margin_mse"]),
    help="Distillation loss.",
)
@mining_options
def distill_command(
    arguments: StageArguments,
    world: "World",
    layers: int | None,
    student: str | None,
    reranker: str | None,
    by: str | None,
    mining: MiningOptions,
) -> None:
    """Distil an encoder: train a smaller one to rank as a larger one.

    The teacher mines negatives (8 per row) and scores the texts of each row. The student is the
    model with fewer layers, or --student.

    \b
    Examples:
      gte train distill --model minilm --layers 3 --data faq.jsonl --output small/
      gte train distill -m minilm --layers 3 --reranker BAAI/bge-reranker-base --data q.csv -o s/
    """
    from opengte import checkpoint as checkpoints
    from opengte.cli.train.teacher import Teacher, score_sources, scored_file
    from opengte.train.stages import distill as stage

    if (layers is None) == (student is None):
        raise click.UsageError("Give --layers or --student.")
    own = {"by": by, "teacher_temperature": 1.0 if reranker else None}
    recipe = arguments.numbers.recipe(stage.DistillationRecipe, **own)
    negatives = mining.settings(8, only_missing=False)
    if negatives is None:
        raise click.UsageError("The teacher scores mined negatives: expected --mine of at least 1.")
    teacher = Teacher(arguments.model, reranker, negatives)
    switches = {"instruction": arguments.source.instruction}
    specs = parse_sources(
        arguments.source.data, arguments.source.listed, arguments.columns, switches
    )
    folder = arguments.output / DATA
    if world.is_first:
        score_sources(specs, folder, teacher)
        if layers is not None and not arguments.start.exists():
            stage.drop_layers(
                checkpoints.read_checkpoint(arguments.model, kind="encoder"),
                layers,
                arguments.start,
            )
    world.wait()
    start = checkpoints.read_checkpoint(student or arguments.start, kind="encoder")
    scored = [copied(spec, scored_file(spec, folder)) for spec in specs]
    train, dev = arguments.sources(start, recipe, specs=scored).open(world)
    done = stage.distill(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world)


@stage_command("late")
@mining_options
@click.option("--width", type=click.IntRange(1), help="Dimensions of a token vector.")
@click.option(
    "--temperature", type=click.FloatRange(0, min_open=True), help="Temperature of the softmax."
)
@click.option(
    "--reranker", metavar="MODEL", help="Reranker whose scores are distilled, beside the pairs."
)
@lora_option
def late_command(
    arguments: StageArguments,
    world: "World",
    mining: MiningOptions,
    width: int | None,
    temperature: float | None,
    reranker: str | None,
    lora: int | None,
) -> None:
    """Train a late-interaction model (ColBERT) from an encoder.

    The model gets a vector for each token, compared by MaxSim. Negatives are the other texts of a
    batch, and four mined ones a row. With --reranker, its ranking of each row's texts is learned,
    too. PyLate and sentence-transformers read the model.

    \b
    Examples:
      gte train late --model minilm --data faq.jsonl --output late/
      gte train late -m minilm --data faq.jsonl --reranker BAAI/bge-reranker-base -o late/
    """
    from opengte.cli.train.teacher import Teacher, score_sources, scored_file
    from opengte.train.stages import late as stage
    from opengte.train.stages.base_models import read_pooled_encoder

    start = read_pooled_encoder(arguments.model, arguments.start)
    own = {"width": width, "temperature": temperature, "adapters": adapters(lora)}
    recipe = arguments.numbers.recipe(stage.LateRecipe, **own)
    ready = stage.late_start(start, recipe)
    how: dict[str, Any] = {"mine": mining.settings(4), "miner": start}
    if reranker is not None:
        negatives = mining.settings(4, only_missing=False)
        if negatives is None:
            raise click.UsageError(
                "The reranker scores mined negatives: expected --mine 1 or more."
            )
        specs = parse_sources(arguments.source.data, arguments.source.listed, arguments.columns, {})
        folder = arguments.output / DATA
        if world.is_first:
            score_sources(specs, folder, Teacher(arguments.model, reranker, negatives))
        world.wait()
        how = {"specs": [copied(spec, scored_file(spec, folder)) for spec in specs]}
    train, dev = arguments.sources(ready, recipe, **how).open(world)
    done = stage.train_late(start, train, job(arguments, world, dev), recipe)
    finish(arguments, done, world, loads="LateInteraction")


COMMANDS = (
    finetune_command,
    pretrain_command,
    contrastive_command,
    extend_command,
    instruct_command,
    rerank_command,
    distill_command,
    late_command,
)
