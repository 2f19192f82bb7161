"""`gte train`: from texts to a model, stage by stage."""

import click

from opengte.cli.train import export, merge, resume, stages


@click.group("train", context_settings={"help_option_names": ["-h", "--help"]})
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


for _one in (*stages.COMMANDS, merge.command, resume.command, export.command):
    command.add_command(_one)
