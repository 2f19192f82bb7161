"""Loads the settings from flags, the environment and a TOML file, and knows each one's origin."""

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
from opengte.hub.disk import parse_size
from opengte.serve.config.inference import ModelSettings
from opengte.serve.config.settings import (
    GROUPS,
    PER_MODEL,
    SETTINGS,
    ServerSettings,
    check_value,
    flag_name,
    setting_info,
    variable_name,
)

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off", ""}
_BY_NAME = {setting.name: setting for setting in SETTINGS}


@dataclass(frozen=True)
class LoadedSettings:
    """Settings; origins has the flag, variable or file of each one that is not a default."""

    settings: ServerSettings
    origins: Mapping[str, str]
    warnings: tuple[str, ...] = ()


def load_settings(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> LoadedSettings:
    """Merge the sources: a flag wins over a variable, that over the file, that over the default.

    flags holds the flags that were given, environment defaults to `os.environ`. Raises InputError,
    which names the source and the setting.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value in (read_settings_file(file) if file else {}).items():
        values[name], origins[name] = value, str(file)
    for name, value in read_environment(environment).items():
        values[name], origins[name] = value, variable_name(name)
    for name, value in flags.items():
        values[name], origins[name] = value, flag_name(name)
    return LoadedSettings(ServerSettings(**values), origins, tuple(_misspelled(environment)))


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings in OPENGTE_* variables."""
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        variable = variable_name(setting.name)
        text = environment.get(variable)
        if text is None or _is_kubernetes_variable(setting.name, text):
            continue
        try:
            values[setting.name] = parse_value(setting, text)
        except InputError as error:
            raise InputError(f"environment variable {variable}: {error}") from None
    return values


def read_settings_file(path: Path) -> dict[str, Any]:
    """Return the settings in a TOML file; InputError for an unknown key names the nearest one."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not TOML: {error}") from None
    values: dict[str, Any] = {}
    for name, value in content.items():
        _check_name(name, list(_BY_NAME), str(path))
        values[name] = _toml_value(_BY_NAME[name], value, str(path))
    return values


def parse_value(setting: "Field[Any]", text: str) -> Any:
    """Parse the text of a flag or variable as the value of a setting; InputError if it is wrong."""
    kind = setting_info(setting).kind
    if kind in ("list", "models"):
        return tuple(part for part in re.split(r"[,\s]+", text) if part)
    try:
        value: Any = _PARSERS.get(kind, str)(text)
    except ValueError:
        value = text  # check_value then says what was expected
    if value == "" and setting.default is None:
        return None
    check_value(setting, value)
    return value


_PARSERS: dict[str, Callable[[str], Any]] = {
    "whole": int,
    "number": float,
    "size": parse_size,
    "switch": lambda text: _parse_switch(text),
}


def to_toml(loaded: LoadedSettings) -> str:
    """Return the effective configuration as TOML, with the origin of each value; no secrets."""
    lines: list[str] = []
    tables: list[str] = []
    for group in GROUPS:
        lines.append(f"# {group}")
        for setting in SETTINGS:
            if setting_info(setting).group != group:
                continue
            value = getattr(loaded.settings, setting.name)
            if setting.name == "model" and any(not isinstance(model, str) for model in value):
                tables = [_toml_table(model) for model in loaded.settings.models]
                continue
            lines.append(_toml_line(setting, value, loaded.origins.get(setting.name, "default")))
        lines.append("")
    return "\n".join([*lines, *tables]).rstrip() + "\n"


def settings_markdown() -> str:
    """Return the settings as a Markdown table, for docs/reference/settings.md."""
    lines: list[str] = []
    for group in GROUPS:
        lines += [f"### {group}", "", "| file key | default | meaning |", "|---|---|---|"]
        for setting in SETTINGS:
            info = setting_info(setting)
            if info.group != group:
                continue
            default = "" if setting.default is None else _toml_text(setting.default)
            choices = f" One of {', '.join(info.choices)}." if info.choices else ""
            star = " \\*" if info.per_model else ""
            row = f"| `{setting.name}`{star} | `{default}` | {info.help}{choices} |"
            lines.append(row.replace("`` ", " "))
        lines.append("")
    return "\n".join(lines)


def _toml_value(setting: "Field[Any]", value: Any, source: str) -> Any:
    kind = setting_info(setting).kind
    if kind == "models":
        items = value if isinstance(value, list) else [value]
        return tuple(item if isinstance(item, str) else _model(item, source) for item in items)
    if kind == "list" and isinstance(value, list | str):
        value = tuple(value) if isinstance(value, list) else (value,)
    if kind == "size" and isinstance(value, str):
        value = parse_value(setting, value)
    try:
        check_value(setting, value)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return value


def _model(table: Any, source: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise InputError(f"{source}: model: got {table!r}; expected a name or a [[model]] table")
    allowed = [field.name for field in fields(ModelSettings)]
    for name, value in table.items():
        _check_name(name, allowed, f"{source}: [[model]]")
        if name in PER_MODEL:
            _toml_value(PER_MODEL[name], value, f"{source}: [[model]]")
        elif not isinstance(value, list if name == "aliases" else str):
            expected = "a list of texts" if name == "aliases" else "a text"
            raise InputError(f"{source}: [[model]]: {name}: got {value!r}; expected {expected}")
    return dict(table)


def _check_name(name: str, allowed: list[str], source: str) -> None:
    if name in allowed:
        return
    near = difflib.get_close_matches(name.replace("-", "_"), allowed, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else "`gte serve --print-config` lists them all"
    raise InputError(f"{source}: there is no setting `{name}`; {hint}")


def _parse_switch(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _is_kubernetes_variable(name: str, text: str) -> bool:
    """Return whether Kubernetes set a variable: it sets OPENGTE_PORT for a Service `opengte`."""
    return name == "port" and text.startswith("tcp://")


def _misspelled(environment: Mapping[str, str]) -> list[str]:
    """Return a warning for each variable whose name is nearly that of a setting."""
    known = {variable_name(setting.name) for setting in SETTINGS}
    warnings = []
    for name in sorted(environment):
        if name.startswith("OPENGTE_") and name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
            if near:
                warnings.append(f"{name} is not a setting; did you mean {near[0]}?")
    return warnings


def _toml_line(setting: "Field[Any]", value: Any, origin: str) -> str:
    if value is None:
        return f"# {setting.name} ="
    if setting_info(setting).secret:
        return f"# {setting.name} is set (secret)  # {origin}"
    return f"{setting.name} = {_toml_text(value)}  # {origin}"


def _toml_table(model: ModelSettings) -> str:
    ordered = sorted(fields(model), key=lambda field: field.name != "name")  # `name` comes first
    values = [(field.name, getattr(model, field.name)) for field in ordered]
    given = [(name, value) for name, value in values if value not in (None, ())]
    body = "\n".join(f"{name} = {_toml_text(value)}" for name, value in given)
    return f"[[model]]\n{body}\n"


def _toml_text(value: Any) -> str:
    """Return a value in TOML: its strings, numbers, lists and booleans are those of JSON."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
