"""What a command keeps in its output folder, bound to what it was made from.

Prepared data and converted start models are kept, so that an interrupted command goes on where it
was. `made_from.json` has the options and the digests of all inputs. What was made from others is
made again; if the folder has trained weights, the command is refused and changes nothing.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.cli.data.options import ColumnOptions, parse_sources
from opengte.cli.train.options import DataOptions, RecipeOptions

if TYPE_CHECKING:
    from opengte.data.reading.sources import SourceSpec

COMMAND, RECORD = "command.json", "made_from.json"
RUN, DATA, START, NOTHING = "run", "data", "start", "nothing"
KEPT = (DATA, START, NOTHING)
MODELS = ("miner", "reranker", "student")  # options that name further models
# options of stages that shape neither the data nor the start model; the run checks them itself
WEIGHTS_ONLY = frozenset(
    "by check loss lora matryoshka max_length reversed_ntk sparse temperature theta".split()
)

Made = dict[str, Any]


def describe(
    command: str,
    model: str,
    source: DataOptions,
    columns: ColumnOptions,
    numbers: RecipeOptions,
    own: Mapping[str, Any],
) -> Made:
    """Return what the data and the start model of a command are made from.

    Raises InputError for files that are missing, and for columns that are not there.
    """
    from opengte.data.reading.sources import list_files

    specs = _specs(source, columns)
    options = {name: value for name, value in own.items() if name not in WEIGHTS_ONLY}
    names = [options.pop(name) for name in MODELS if options.get(name) is not None]
    new = options.get("from_nothing") is not None
    for name in ("query_tokens", "document_tokens", *(["seed"] if new else [])):
        options[name] = getattr(numbers, name)
    options |= asdict(source) | asdict(columns)
    files = [path for spec in specs for path in list_files(spec.paths)]
    files += [folder / "manifest.json" for folder in map(Path, _prepared(source))]
    models = [model] if new else [_model_digest(name) for name in (model, *names)]
    options["listed"] = source.listed and str(source.listed)
    made = {
        "command": command,
        "model": models,
        "options": {name: value for name, value in options.items() if value not in (None, (), 0)},
        "sources": [_source(spec) for spec in specs],
        "files": _digests(files),
    }
    described: Made = json.loads(json.dumps(made, default=str))
    return described


def _specs(source: DataOptions, columns: ColumnOptions) -> "list[SourceSpec]":
    """Return the sources of training and evaluation data that are to be prepared."""
    from opengte.data.reading.sources import detect_columns
    from opengte.errors import InputError

    ready = _prepared(source)
    specs: list[SourceSpec] = []
    for named, listed in ((source.data, source.listed), (source.dev, None)):
        if (named or listed is not None) and named[:1] not in [(folder,) for folder in ready]:
            switches = {"instruction": source.instruction}
            specs += parse_sources(named, listed, columns, switches)
    for spec in specs:
        try:
            detect_columns(spec.paths, spec.columns)
        except InputError as error:
            raise InputError(f"source `{spec.name}`: {error}") from error
    return specs


def prepared_folder(named: tuple[str, ...]) -> Path | None:
    """Return the folder of prepared data, if exactly one was given."""
    if len(named) == 1 and (Path(named[0]) / "manifest.json").is_file():
        return Path(named[0])
    return None


def _prepared(source: DataOptions) -> list[str]:
    return [named[0] for named in (source.data, source.dev) if prepared_folder(named)]


def _source(spec: "SourceSpec") -> list[Any]:
    return [spec.name, list(spec.paths), str(spec.columns), spec.instruction, spec.weight]


def _digests(files: Sequence[Path]) -> dict[str, str]:
    from opengte.hub.digests import file_digests

    digests = file_digests(files)
    return {str(path): one.sha256 for path, one in zip(files, digests, strict=True)}


def _model_digest(name: str) -> str:
    """Return a digest of the files of a model."""
    from opengte import hub

    folder = hub.fetch_model(name).folder
    found = sorted(p for p in folder.glob("*") if p.suffix != ".md" and p.is_file())
    found += sorted(folder.glob("*/config.json"))
    digests = _digests(found)
    content = json.dumps([[str(Path(p).relative_to(folder)), d] for p, d in digests.items()])
    return f"{name} {hashlib.sha256(content.encode()).hexdigest()[:16]}"


def steps_done(output: Path) -> int:
    """Return the steps of the last checkpoint in an output folder, 0 without any."""
    states = (output / RUN).glob("**/step-*/state.json")
    names = (re.fullmatch(r"step-(\d+)", path.parent.name) for path in states)
    return max((int(match[1]) for match in names if match), default=0)


def bind_output(output: Path, made: Made, *, resume: bool) -> None:
    """Keep what was made from the same, remove what was not, refuse what would lose training.

    Raises InputError for a folder with trained weights, unless they are resumed with the same; for
    files of somebody else in the places of ours; and for inputs that are among what is kept.
    """
    from opengte.errors import InputError

    before = _read(output / RECORD)
    changes = [] if before is None else list(_changes(before, made))
    if steps := steps_done(output):
        _check_run(output, steps, changes, resume=resume)
        return
    marks = (output / COMMAND, output / DATA / "asked.json")
    ours = before is not None or any(mark.exists() for mark in marks)
    kept = [output / name for name in KEPT if (output / name).exists()]
    if kept and not ours:
        raise InputError(
            f"`{kept[0]}` exists and was not written by `gte train`. Give another --output."
        )
    for path in made["files"]:
        if any(folder.resolve() in Path(path).resolve().parents for folder in kept):
            raise InputError(
                f"`{path}` is in a folder that this command writes. Copy it, or give another "
                "--output."
            )
    if kept and (before is None or changes):
        if changes:
            click.echo(f"made again: {kept[0]} ({'; '.join(changes)})", err=True)
        for folder in kept:
            shutil.rmtree(folder)
    output.mkdir(parents=True, exist_ok=True)
    (output / RECORD).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def _check_run(output: Path, steps: int, changes: Sequence[str], *, resume: bool) -> None:
    from opengte.errors import InputError

    if not resume:
        raise InputError(
            f"`{output}` has a run of {steps} steps: resume it with --resume, or give another "
            "--output"
        )
    if changes:
        raise InputError(
            f"`{output}` has a run of {steps} steps that cannot be resumed: {'; '.join(changes)}. "
            "Resume it with what it was started with, or give another --output."
        )


def _read(path: Path) -> Made | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _changes(before: Made, now: Made) -> Iterator[str]:
    """Yield what differs, in words."""
    if before.get("command") != now["command"]:
        yield f"it was made by `gte train {before.get('command')}`"
    if before.get("model") != now["model"]:
        yield "the model has changed"
    old, new = before.get("options") or {}, now["options"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            option = "sources" if name == "listed" else name.replace("_", "-")
            yield f"--{option} was {_shown(old.get(name))}, is now {_shown(new.get(name))}"
    files, others = before.get("files") or {}, now["files"]
    for path in sorted(files.keys() & others.keys()):
        if files[path] != others[path]:
            yield f"`{path}` has changed"
    if old == new and (files.keys() != others.keys() or before.get("sources") != now["sources"]):
        yield "the sources have changed"


def _shown(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    return " ".join(map(str, values)) if value is not None else "not given"
