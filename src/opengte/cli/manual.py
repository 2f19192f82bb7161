"""docs/cli.md, made from the help pages: `python -m opengte.cli.manual > docs/cli.md`."""

from collections.abc import Iterator

import click

from opengte.cli import main

INTRODUCTION = """\
# The command line

Made from the help pages by `make docs`; do not edit.

Data goes to stdout, and everything else to stderr. Exit status: 0 done, 1 failed (also: some rows
or files failed, and the rest was done), 2 wrong usage, 130 interrupted, 141 the reader of stdout
went away. `GTE_DEBUG=1` shows the traceback of an error.
"""
WIDTH = 96  # columns of a help page, whatever the terminal


def manual() -> str:
    """Return the page: an introduction, then the help of `gte` and of each command."""
    return "\n".join([INTRODUCTION, *_pages("gte", main)])


def commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and those inside it, each with its whole name."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=name)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from commands(f"{name} {inner}", found)


def _pages(name: str, command: click.Command) -> Iterator[str]:
    for whole, one in commands(name, command):
        context = click.Context(one, info_name=whole, max_content_width=WIDTH, terminal_width=WIDTH)
        context.help_option_names = ["-h", "--help"]
        yield f"## {whole}\n\n```text\n{one.get_help(context)}\n```\n"


if __name__ == "__main__":
    click.echo(manual(), nl=False)
