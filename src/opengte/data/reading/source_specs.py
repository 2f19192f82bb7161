"""Sources as a command line or a TOML file specifies them."""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from opengte.data.reading.column_mapping import ColumnMapping
from opengte.data.reading.sources import OPENERS, SourceSpec
from opengte.errors import InputError

JOINED = ("positive", "negative", "score")  # may be several columns
COLUMNS = tuple(field.name for field in fields(ColumnMapping))
SWITCHES: dict[str, tuple[type, ...]] = {
    "instruction": (str,),
    "in_batch_negatives": (bool,),
    "temperature": (float, int),
    "weight": (float, int),
}


def parse_source_arguments(arguments: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """Return the paths of each source from arguments PATH or NAME=PATH.

    A name that occurs several times collects all its paths.

    >>> parse_source_arguments(["web=a.jsonl", "faq.csv"])
    {'web': (PosixPath('a.jsonl'),), 'faq': (PosixPath('faq.csv'),)}
    """
    found: dict[str, list[Path]] = {}
    for argument in arguments:
        name, sign, rest = argument.partition("=")
        path = Path(rest if sign and name and not Path(argument).exists() else argument)
        if path == Path(argument):
            name = source_name(path)
        found.setdefault(name, []).append(path)
    return {name: tuple(paths) for name, paths in found.items()}


def source_name(path: Path) -> str:
    """Return a file's name without its suffixes."""
    bare = path.with_suffix("") if path.suffix in OPENERS else path
    return bare.stem or str(path)


def read_source_specs(path: Path) -> list[SourceSpec]:
    """Return the sources of a TOML file: tables `[[source]]`, with paths relative to the file.

    Raises InputError that names the invalid source and key.
    """
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"`{path}` is not TOML: {error}") from error
    tables = content.pop("source", [])
    if content or not isinstance(tables, list) or not tables:
        raise InputError(f"`{path}` must hold tables [[source]] and nothing else")
    return [_spec(path, number, table) for number, table in enumerate(tables, 1)]


def _spec(path: Path, number: int, table: Mapping[str, Any]) -> SourceSpec:
    where = f"`{path}`, source {number}"
    _check_keys(where, table)
    paths = _texts(where, table, "path")
    if not paths:
        raise InputError(f"{where} has no path; expected one, or a list")
    places = tuple(path.parent / one for one in paths)
    name = table.get("name", source_name(places[0]))
    if not isinstance(name, str) or not name:
        raise InputError(f"{where} has name={name!r}; expected a string")
    return check_source_spec(
        SourceSpec(name, places, _columns(where, table), **_switches(where, table))
    )


def _check_keys(where: str, table: Mapping[str, Any]) -> None:
    known = ("name", "path", *COLUMNS, *SWITCHES)
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=2)
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise InputError(f"{where} has the key {key!r}; known are {', '.join(known)}.{hint}")


def _columns(where: str, table: Mapping[str, Any]) -> ColumnMapping:
    columns: dict[str, Any] = {}
    for key in COLUMNS:
        texts = _texts(where, table, key)
        if len(texts) > 1 and key not in JOINED:
            raise InputError(f"{where} has {key}={table[key]!r}; expected one column")
        if texts:
            columns[key] = texts if key in JOINED else texts[0]
    return ColumnMapping(**columns)


def _switches(where: str, table: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: table[key] for key in SWITCHES if key in table}
    for key, value in given.items():
        if type(value) not in SWITCHES[key]:
            wanted = " or ".join(one.__name__ for one in SWITCHES[key])
            raise InputError(f"{where} has {key}={value!r}; expected a {wanted}")
    return given


def check_source_spec(spec: SourceSpec) -> SourceSpec:
    """Return a source after checking its weight and temperature; InputError if one is invalid."""
    if spec.weight < 0:
        raise InputError(f"source `{spec.name}` has weight={spec.weight}; expected 0 or more")
    if spec.temperature is not None and spec.temperature <= 0:
        raise InputError(
            f"source `{spec.name}` has temperature={spec.temperature}; expected more than 0"
        )
    return spec


def _texts(where: str, table: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(one, str) and one for one in texts):
        raise InputError(f"{where} has {key}={value!r}; expected a string or a list of strings")
    return tuple(texts)
