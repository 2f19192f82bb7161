"""Where a server keeps what must outlive it: the state folder."""

import os
from pathlib import Path

from opengte.serve.config.settings import Settings


def keys_folder(settings: Settings) -> Path:
    """Return the folder of the keys of a server."""
    if settings.keys_dir:
        return Path(settings.keys_dir).expanduser().absolute()
    return state_folder(settings.state_dir)


def state_folder(chosen: str | None) -> Path:
    """Return the folder of keys and usage: as chosen, `$OPENGTE_STATE_DIR`, or the user's own."""
    if chosen or (chosen := os.environ.get("OPENGTE_STATE_DIR")):
        return Path(chosen).expanduser().absolute()
    data = os.environ.get("XDG_DATA_HOME")
    home = Path(data).expanduser() if data else Path.home() / ".local" / "share"
    return (home / "opengte").absolute()
