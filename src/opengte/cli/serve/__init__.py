"""`gte serve`: the server."""

from collections.abc import Callable
from dataclasses import Field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from opengte.errors import InputError
from opengte.serve.config.settings import SETTINGS, SettingInfo, flag_name, setting_info

if TYPE_CHECKING:
    from opengte.serve.config.settings import ServerSettings

_NO_DEFAULT = (None, (), "", False)


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add a flag for every setting; flags that are not given have no value."""
    for one in reversed(SETTINGS):
        command = _option(one)(command)
    return command


def _option(setting: "Field[Any]") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    said = setting_info(setting)
    name = flag_name(setting.name)
    if said.kind == "switch":
        names = f"{name}/--no-{name[2:]}" if setting.default else name
        return click.option(names, setting.name, default=None, is_flag=True, help=_help(setting))
    short = {"model": ("-m",), "port": ("-p",)}.get(setting.name, ())
    return click.option(
        *short,
        name,
        setting.name,
        multiple=said.kind in ("list", "models"),
        metavar=said.metavar or _metavar(said),
        help=_help(setting),
    )


def _help(setting: "Field[Any]") -> str:
    default = setting.default
    if default in _NO_DEFAULT or default is True:
        return setting_info(setting).help
    shown = (
        ", ".join(default) if isinstance(default, tuple) else _shown(setting_info(setting), default)
    )
    return f"{setting_info(setting).help}  [default: {shown}]"


def _shown(said: SettingInfo, value: Any) -> str:
    if said.kind == "size":
        for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
            if value and value % 2**power == 0:
                return f"{value >> power}{unit}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(said: SettingInfo) -> str | None:
    if said.choices:
        return f"[{'|'.join(said.choices)}]"
    return {"whole": "N", "number": "NUMBER", "size": "SIZE"}.get(said.kind, "TEXT")


@click.command("serve")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    envvar="OPENGTE_CONFIG",
    show_envvar=True,
    metavar="FILE",
    help="TOML configuration file; a [[model]] table configures one model.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print the effective configuration and the source of each value as TOML, and exit.",
)
@_settings_options
def command(config: Path | None, print_config: bool, **values: Any) -> None:
    """Serve models over HTTP to every embedding client.

    Speaks the protocols of OpenAI, text-embeddings-inference, Cohere, Jina, Voyage and Ollama.
    Every flag is also an environment variable (--max-body-bytes is OPENGTE_MAX_BODY_BYTES) and a
    key of the configuration file; flags override variables, and variables override the file. On
    SIGTERM the server stops after answering requests in flight; on SIGHUP it reloads models and
    keys.

    \b
    Examples:
      gte serve
      gte serve --model minilm --model rerank=Alibaba-NLP/gte-reranker-modernbert-base
      gte serve --config server.toml --host 0.0.0.0 --workers 2
      gte serve --kb kb/
    """
    from opengte.serve.config import loading

    loaded = loading.load_settings(_given(values), file=config)
    if loaded.settings.console:
        _require("console", "the console", "authlib", "httpx", "itsdangerous", "jinja2")
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if print_config:
        click.echo(loading.to_toml(loaded), nl=False)
        return
    main = _main()
    raise click.exceptions.Exit(main.run_server(loaded.settings, *_extension(loaded.settings)))


def _extension(settings: "ServerSettings") -> tuple[Any, ...]:
    """Return the extension that adds the knowledge bases to each process, if there are any."""
    if not settings.kb:
        for name in ("where", "reranker"):
            if getattr(settings, name):
                raise InputError(f"{name} applies to knowledge bases only; set kb too")
        return ()
    from opengte.apps import kb_server

    # opened once here, so that an error is reported by the command and not by every process
    kb_server.open_services(settings.kb, settings)
    return kb_server.extend, "opengte.cli.serve.worker"


def _given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the parsed settings whose flags were given."""
    from opengte.serve.config import loading

    found: dict[str, Any] = {}
    for one in SETTINGS:
        value = values[one.name]
        if value is None or value == ():
            continue
        if isinstance(value, str):
            try:
                value = loading.parse_value(one, value)
            except ValueError as error:
                raise click.UsageError(f"{flag_name(one.name)}: {error}") from None
        found[one.name] = value
    return found


def _main() -> Any:
    """Import the server; MissingExtraError names the extra of a missing package."""
    _require("serve", "serving", "httptools", "msgspec", "starlette", "uvicorn")
    from opengte.serve.runtime import main

    return main


def _require(extra: str, purpose: str, *packages: str) -> None:
    from opengte.errors import MissingExtraError

    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra, purpose)
