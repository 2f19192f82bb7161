"""`gte similarity`: how close texts are."""

import itertools

import click

from opengte.cli.common import output
from opengte.cli.common.options import (
    ModelOptions,
    TextOptions,
    encoder_options,
    json_option,
    note_default_instruction,
    text_options,
)


@click.command("similarity", no_args_is_help=True)
@click.argument("texts", nargs=-1)
@click.option("--all", "all_pairs", is_flag=True, help="Compare all pairs of texts.")
@json_option
@text_options
@encoder_options
def command(
    texts: tuple[str, ...],
    all_pairs: bool,
    as_json: bool,
    text: TextOptions,
    options: ModelOptions,
) -> None:
    """Compare the first text with the others by cosine similarity.

    \b
    Examples:
      gte similarity "a cat sleeps" "a kitten naps" "the stock market fell"
      gte similarity --all --json "un chat dort" "a cat sleeps" "eine Katze schläft"
    """
    if len(texts) < 2:
        raise click.UsageError("Give at least two texts.")
    encoder = options.load_encoder()
    vectors = text.embed(encoder, list(texts))
    note_default_instruction(encoder)
    assert vectors.dense is not None
    scores = encoder.similarity(vectors.dense, vectors.dense)
    pairs = itertools.combinations(range(len(texts)), 2)
    for a, b in pairs if all_pairs else [(0, other) for other in range(1, len(texts))]:
        _print(texts[a], texts[b], float(scores[a, b]), all_pairs, as_json)
    if vectors.truncated:
        click.echo(f"{len(vectors.truncated)} of {len(texts)} texts truncated", err=True)


def _print(a: str, b: str, similarity: float, both: bool, as_json: bool) -> None:
    if as_json:
        output.print_json({"a": a, "b": b, "similarity": output.round_score(similarity)})
    else:
        label = f"{a} | {b}" if both else b
        click.echo(f"{similarity:7.4f}  {output.one_line(label, 9)}")
