"""`gte train`: from texts to a model, stage by stage."""

import click

from opengte.cli.common.groups import LazyGroup

COMMANDS = {
    "contrastive": (
        "train.stages:contrastive_command",
        "Pre-train an encoder on weak pairs: large batches, short texts.",
    ),
    "distill": (
        "train.stages:distill_command",
        "Distil an encoder: train a smaller one to rank as a larger one.",
    ),
    "export": ("train.export:command", "Write a checkpoint of a run as a model."),
    "extend": (
        "train.stages:extend_command",
        "Give an encoder with rotary positions a longer context.",
    ),
    "finetune": (
        "train.stages:finetune_command",
        "Fine-tune an encoder on your pairs, with mined hard negatives.",
    ),
    "instruct": (
        "train.stages:instruct_command",
        "Turn a decoder into an instruction-tuned encoder.",
    ),
    "late": (
        "train.stages:late_command",
        "Train a late-interaction model (ColBERT) from an encoder.",
    ),
    "merge": ("train.merge:command", "Merge models that were trained from the same model."),
    "pretrain": (
        "train.stages:pretrain_command",
        "Pre-train an encoder on raw texts by masked language modelling.",
    ),
    "rerank": (
        "train.stages:rerank_command",
        "Train a reranker (cross-encoder) from an encoder or a decoder.",
    ),
    "resume": ("train.resume:command", "Resume an interrupted run from its last checkpoint."),
}


@click.group("train", cls=LazyGroup, table=COMMANDS)
def command() -> None:
    """Train encoders and rerankers: pre-train, fine-tune, distil, merge.

    Every stage starts from a model and writes FOLDER/model, which `gte`, sentence-transformers and
    transformers load. With several GPUs: `torchrun --nproc-per-node N --no-python gte train ...`.

    \b
    Examples:
      gte train finetune --model minilm --data faq.jsonl --output tuned/
      gte train resume tuned/
      gte train rerank --model minilm --data faq.jsonl --output reranker/
    """
