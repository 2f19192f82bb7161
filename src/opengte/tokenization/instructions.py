"""The instructions with which instruct models are evaluated on MTEB.

`mteb_instructions.json` holds them and their sources.
"""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

VARIANT = re.compile(r"(?:\s*\([\w-]+\)|\.v\d+|HardNegatives|-PL|-reranking)$")


def instruction_for(task: str, task_type: str | None = None) -> str | None:
    """Return the instruction for an MTEB task, by its name or else by its type; None if unknown.

    A name may have a language ("MassiveIntentClassification (de)"), a version (".v2") or the "-PL"
    of the Polish copy of a BEIR task, and may lack "-reranking".

    >>> instruction_for("SciFact-PL")
    'Given a scientific claim, retrieve documents that support or refute the claim'
    """
    table = _table()
    families: dict[str, str] = table["families"]
    for name in _names(task):
        if name in table["tasks"]:
            return str(table["tasks"][name])
    for start, text in families.items():
        if task.startswith(start):
            return text
    generic: dict[str | None, str] = table["types"]
    return generic.get(task_type)


def _names(task: str) -> list[str]:
    """Return the name, the name without its last variant suffix, and so on."""
    names = [task]
    while (shorter := VARIANT.sub("", names[-1])) != names[-1]:
        names.append(shorter)
    return names


@cache
def _table() -> dict[str, Any]:
    """Return the data, with the tables of all suites joined as "tasks"."""
    text = (files(__package__) / "mteb_instructions.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    tasks: dict[str, str] = {}
    for suite in table["suites"].values():
        tasks |= suite
    short = {_names(task)[-1]: text for task, text in tasks.items() if task.endswith("-reranking")}
    aliases = {alias: tasks[task] for alias, task in table["aliases"].items()}
    return {**table, "tasks": {**short, **aliases, **tasks}}
