"""docs/cli.md, made from the help pages: `python -m opengte.cli.manual > docs/cli.md`."""

import click

from opengte.cli import COMMANDS, main

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
    pages = [_page("gte", main)]
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        pages.append(_page(f"gte {name}", command))
    return "\n".join([INTRODUCTION, *pages])


def _page(name: str, command: click.Command) -> str:
    context = click.Context(command, info_name=name, max_content_width=WIDTH, terminal_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return f"## {name}\n\n```text\n{command.get_help(context)}\n```\n"


if __name__ == "__main__":
    click.echo(manual(), nl=False)
