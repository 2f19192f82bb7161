"""Settings from flags, the environment and a TOML file, in this order; where each came from."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from opengte.errors import InputError
from opengte.serve.config.inference import ModelSettings
from opengte.serve.config.settings import (
    GROUPS,
    PER_MODEL,
    TABLE,
    Settings,
    about,
    check,
    flag,
    variable,
)

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}
_UNITS = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?)(?:i?b)?\s*", re.IGNORECASE)
_BY_NAME = {one.name: one for one in TABLE}


@dataclass(frozen=True)
class Loaded:
    """Settings, and for each that is not the default, where it was said."""

    settings: Settings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Loaded:
    """Join the sources: a flag wins over a variable, that over the file, that over the default.

    flags holds only what was given. Raises InputError, which names the source and the setting.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in (from_file(file) if file else {}).items():
        values[name], origins[name] = value, str(file)
    for name, value in from_environment(environment).items():
        values[name], origins[name] = value, variable(name)
    for name, value in flags.items():
        values[name], origins[name] = value, flag(name)
    return Loaded(Settings(**values), origins, tuple(_misspelt(environment)))


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what OPENGTE_* variables say."""
    found: dict[str, Any] = {}
    for one in TABLE:
        text = environment.get(variable(one.name))
        if text is None or _of_kubernetes(one.name, text):
            continue
        try:
            found[one.name] = read(one, text)
        except InputError as error:
            raise InputError(f"environment variable {variable(one.name)}: {error}") from None
    return found


def from_file(path: Path) -> dict[str, Any]:
    """Return what a TOML file says; an unknown key is an error that names the nearest one."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    found: dict[str, Any] = {}
    for name, value in content.items():
        one = _known(name, list(_BY_NAME), str(path))
        found[name] = _from_toml(_BY_NAME[one], value, str(path))
    return found


def read(setting: "Field[Any]", text: str) -> Any:
    """Read the text of a flag or variable as the value of a setting."""
    kind = about(setting).kind
    if kind in ("list", "models"):
        return tuple(part for part in re.split(r"[,\s]+", text) if part)
    try:
        value: Any = _READERS.get(kind, str)(text)
    except ValueError:
        value = text  # and the check says what was expected
    if value == "" and setting.default is None:
        return None
    check(setting, value)
    return value


def size(text: str) -> int:
    """Read a number of bytes: 1048576, 512KiB, 64MB, 2g; units are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return int(float(match[1]) * _UNITS[match[2].lower()])


_READERS: dict[str, Callable[[str], Any]] = {
    "whole": int,
    "number": float,
    "size": size,
    "switch": lambda text: _switch(text),
}


def as_toml(loaded: Loaded) -> str:
    """Write settings as a file that says the same, with where each came from; secrets left out."""
    lines: list[str] = []
    tables: list[str] = []
    for group in GROUPS:
        lines.append(f"# {group}")
        for one in TABLE:
            if about(one).group != group:
                continue
            value = getattr(loaded.settings, one.name)
            if one.name == "model" and any(not isinstance(m, str) for m in value):
                tables = [_table(m) for m in loaded.settings.models]
                continue
            lines.append(_line(one, value, loaded.origins.get(one.name, "default")))
        lines.append("")
    return "\n".join([*lines, *tables]).rstrip() + "\n"


def documentation() -> str:
    """Return the settings as a Markdown table, for docs/reference/settings.md."""
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"### {group}", "", "| file key | default | meaning |", "|---|---|---|"]
        for one in TABLE:
            said = about(one)
            if said.group != group:
                continue
            default = "" if one.default is None else _toml(one.default)
            choices = f" One of {', '.join(said.choices)}." if said.choices else ""
            star = " \\*" if said.per_model else ""
            lines.append(
                f"| `{one.name}`{star} | `{default}` | {said.help}{choices} |".replace("`` ", " ")
            )
        lines.append("")
    return "\n".join(lines)


def _from_toml(setting: "Field[Any]", value: Any, place: str) -> Any:
    kind = about(setting).kind
    if kind == "models":
        items = value if isinstance(value, list) else [value]
        return tuple(m if isinstance(m, str) else _model_table(m, place) for m in items)
    if kind == "list" and isinstance(value, list | str):
        value = tuple(value) if isinstance(value, list) else (value,)
    if kind == "size" and isinstance(value, str):
        value = read(setting, value)
    try:
        check(setting, value)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return value


def _model_table(table: Any, place: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise InputError(f"{place}: model: got {table!r}; expected a name or a [[model]] table")
    allowed = [one.name for one in fields(ModelSettings)]
    for name, value in table.items():
        _known(name, allowed, f"{place}: [[model]]")
        if name in PER_MODEL:
            _from_toml(PER_MODEL[name], value, f"{place}: [[model]]")
        elif not isinstance(value, list if name == "aliases" else str):
            expected = "a list of texts" if name == "aliases" else "a text"
            raise InputError(f"{place}: [[model]]: {name}: got {value!r}; expected {expected}")
    return dict(table)


def _known(name: str, allowed: list[str], place: str) -> str:
    if name in allowed:
        return name
    near = difflib.get_close_matches(name.replace("-", "_"), allowed, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else "`gte serve --print-config` lists them all"
    raise InputError(f"{place}: there is no setting `{name}`; {hint}")


def _switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _of_kubernetes(name: str, text: str) -> bool:
    """Return whether a variable is Kubernetes' own: a Service `opengte` sets OPENGTE_PORT."""
    return name == "port" and text.startswith("tcp://")


def _misspelt(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable that is nearly one of ours."""
    ours = {variable(one.name) for one in TABLE}
    found = []
    for name in sorted(environment):
        if name.startswith("OPENGTE_") and name not in ours:
            near = difflib.get_close_matches(name, ours, n=1, cutoff=0.9)
            if near:
                found.append(f"{name} is not a setting; did you mean {near[0]}?")
    return found


def _line(setting: "Field[Any]", value: Any, origin: str) -> str:
    if value is None:
        return f"# {setting.name} ="
    if about(setting).secret:
        return f"# {setting.name} is set (secret)  # {origin}"
    return f"{setting.name} = {_toml(value)}  # {origin}"


def _table(model: ModelSettings) -> str:
    ordered = sorted(fields(model), key=lambda field: field.name != "name")  # `name` comes first
    values = [(field.name, getattr(model, field.name)) for field in ordered]
    given = [(name, value) for name, value in values if value not in (None, ())]
    body = "\n".join(f"{name} = {_toml(value)}" for name, value in given)
    return f"[[model]]\n{body}\n"


def _toml(value: Any) -> str:
    """Write a value: JSON's texts, numbers, lists and switches are TOML's."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
