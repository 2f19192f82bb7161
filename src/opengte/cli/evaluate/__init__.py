"""`gte eval`: published benchmarks, and decisions on one's own data."""

import click

from opengte.cli.common.groups import LazyGroup

COMMANDS = {
    "check": (
        "evaluate.compare:check_command",
        "Exit with status 1 if quality fell by more than noise.",
    ),
    "compare": (
        "evaluate.compare:compare_command",
        "Test whether model B is better than model A on your own data.",
    ),
    "needle": (
        "evaluate.needle:needle_command",
        "Find the document length from which a model misses facts.",
    ),
    "run": (
        "evaluate.run:run_command",
        "Run MTEB tasks with mteb's own scoring; compare published scores.",
    ),
    "sweep": (
        "evaluate.compare:sweep_command",
        "Measure a model in many settings: quality against time and space.",
    ),
}


@click.group("eval", cls=LazyGroup, table=COMMANDS, default="run")
def command() -> None:
    """Evaluate models on MTEB and on your own data.

    `gte eval MODEL` is short for `gte eval run MODEL`.

    \b
    Examples:
      gte eval minilm --tasks STSBenchmark,SciFact
      gte eval minilm --data mteb-data/ --report report.html
      gte eval compare minilm thenlper/gte-small --data my-beir-folder/
    """
