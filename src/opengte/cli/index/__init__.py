"""`gte index`: documents into an index, and what state it is in."""

import click

from opengte.cli.common.groups import LazyGroup

COMMANDS = {
    "calibrate": (
        "index.calibrate:command",
        "Calibrate confidences, and the threshold for unanswerable queries.",
    ),
    "check": ("index.check:command", "Check every file and document of an index, and mend it."),
    "duplicates": (
        "index.status:duplicates_command",
        "List near-duplicate documents, one group per line.",
    ),
    "export": ("index.status:export_command", "Export an index to a Parquet file."),
    "import": (
        "index.status:import_command",
        "Create an index from a file written by `gte index export`.",
    ),
    "move-root": ("index.roots:move_command", "Record that a folder of an index is elsewhere now."),
    "remove-root": (
        "index.roots:remove_command",
        "Remove a folder of an index, with all documents of it.",
    ),
    "roots": (
        "index.roots:roots_command",
        "List the folders that the documents of an index come from.",
    ),
    "rollback": (
        "index.switch:rollback_command",
        "Go back to the index that `gte index switch` replaced.",
    ),
    "run": ("index.run:command", "Bring an index up to date with files and folders."),
    "status": (
        "index.status:status_command",
        "Show the contents of an index and the recall of its fast search.",
    ),
    "switch": (
        "index.switch:switch_command",
        "Re-embed an index with another model, compare both, and switch.",
    ),
}


@click.group("index", cls=LazyGroup, table=COMMANDS, default="run")
def command() -> None:
    """Build, inspect and maintain an index of documents.

    `gte index PATHS --to KB` is short for `gte index run PATHS --to KB`; `gte search QUERY --in KB`
    searches it.

    \b
    Examples:
      gte index notes/ handbook.pdf --to kb/
      gte index notes/ --to kb/ --dry-run
      gte index status kb/
      gte index check kb/
      gte index move-root kb/ notes /srv/notes
      gte index switch kb/ --model thenlper/gte-small --queries questions.txt
      gte index calibrate kb/ --labelled questions.jsonl
    """
