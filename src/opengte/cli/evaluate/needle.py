"""`gte eval needle`: how long a document may be before a model loses facts in it."""

from pathlib import Path

import click

from opengte.cli.common.options import ModelOptions, json_option
from opengte.cli.common.progress import progress_bar
from opengte.cli.evaluate.options import (
    checked_reports,
    model_argument,
    print_report,
    split_numbers,
    write_reports,
)


@click.command("needle", no_args_is_help=True)
@click.option(
    "--lengths",
    default="256,512,1024,2048,4096,8192,16384,32768",
    show_default=True,
    metavar="TOKENS,...",
    help="Document lengths, in tokens of the model.",
)
@click.option(
    "--documents",
    type=click.IntRange(2),
    default=10,
    show_default=True,
    metavar="N",
    help="Documents per length and position.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@json_option
@checked_reports
@model_argument
def needle_command(
    options: ModelOptions,
    lengths: str,
    documents: int,
    seed: int,
    as_json: bool,
    reports: tuple[Path, ...],
) -> None:
    """Find the document length from which a model misses facts.

    Generates documents that each hide one fact at a known position.

    \b
    Examples:
      gte eval needle minilm --report needle.html
      gte eval needle Alibaba-NLP/gte-multilingual-base --lengths 512,2048,8192
    """
    from opengte.evaluate import needle

    numbers = split_numbers("--lengths", lengths)
    needle.check_sizes(numbers, documents)
    encoder = options.load_encoder()
    texts = 2 * documents * len(needle.KINDS) * len(numbers) * len(needle.POSITIONS)
    with progress_bar(" texts", total=texts, label="documents and questions") as advance:
        found = needle.run_needle_test(
            encoder, lengths=numbers, documents=documents, seed=seed, advance=advance
        )
    made = needle.needle_report(found, encoder)
    print_report(made, as_json)
    write_reports(reports, made)
