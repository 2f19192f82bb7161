"""The folders of API keys and usage records."""

import os
from pathlib import Path

from opengte.serve.config.settings import ServerSettings


def keys_folder(settings: ServerSettings) -> Path:
    """Return the folder of a server's API keys."""
    if settings.keys_dir:
        return Path(settings.keys_dir).expanduser().absolute()
    return state_folder(settings.state_dir)


def state_folder(chosen: str | None) -> Path:
    """Return the folder of usage records, and of keys by default.

    That is the chosen one, else `$OPENGTE_STATE_DIR`, else one in the user's data folder.
    """
    if chosen or (chosen := os.environ.get("OPENGTE_STATE_DIR")):
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME")
    home = Path(data).expanduser() if data else Path.home() / ".local" / "share"
    return (home / "opengte").absolute()
