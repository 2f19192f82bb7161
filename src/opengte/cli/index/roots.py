"""`gte index roots`, `move-root`, `remove-root`: the folders that documents come from."""

import os
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from opengte.cli.common import output
from opengte.cli.common.options import json_option
from opengte.cli.index.status import knowledge_base_argument


@click.command("roots", no_args_is_help=True)
@knowledge_base_argument
@json_option
def roots_command(kb: str, as_json: bool) -> None:
    """List the folders that the documents of an index come from.

    The id of a document begins with the name of its folder.

    \b
    Examples:
      gte index roots kb/
      gte index roots kb/ --json
    """
    from opengte.search.kb import KnowledgeBase

    index = KnowledgeBase.open(kb).latest()
    files = Counter(one.id.partition("/")[0] for one in index.store.sources())
    for root in index.roots.roots:
        if as_json:
            output.print_json({**asdict(root), "files": files[root.name]})
            continue
        gone = "" if os.path.isdir(root.path) else "  (gone)"
        click.echo(f"{root.name:<20}{files[root.name]:>8,} files  {root.path}{gone}")
    if files[""]:
        old = f"{files['']:,} files have their path as id"
        click.echo(f"{old}; `gte index PATHS` gives them one that can move")


@click.command("move-root", no_args_is_help=True)
@knowledge_base_argument
@click.argument("root")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Accept a folder that has none of the files.")
def move_command(kb: str, root: str, path: Path, force: bool) -> None:
    """Record that a folder of an index is elsewhere now.

    ROOT is its name (see `gte index roots`) or its former path, PATH where it is now. No
    document is read or embedded. Filters and names that use the former path stay valid.

    \b
    Examples:
      gte index move-root kb/ notes /srv/notes
      gte index move-root kb/ /home/me/notes /srv/notes
    """
    from opengte.search.kb import KnowledgeBase

    moved = KnowledgeBase.open(kb).move_root(root, path, force=force)
    click.echo(f"`{moved.name}` is {moved.path} now", err=True)


@click.command("remove-root", no_args_is_help=True)
@knowledge_base_argument
@click.argument("root")
def remove_command(kb: str, root: str) -> None:
    """Remove a folder of an index, with all documents of it.

    Its files are not touched.

    \b
    Examples:
      gte index remove-root kb/ notes
      gte index remove-root kb/ /home/me/notes
    """
    from opengte.search.kb import KnowledgeBase

    count = KnowledgeBase.open(kb).remove_root(root)
    click.echo(f"removed `{root}` with {count:,} documents", err=True)
