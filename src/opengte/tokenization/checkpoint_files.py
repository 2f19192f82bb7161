"""Reading the small files of a checkpoint folder, with a size limit and clear errors."""

import json
from pathlib import Path
from typing import Any

from opengte.errors import CheckpointError

LARGEST_FILE = 512 * 2**20  # the largest published tokenizer file is under 40 MB


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file; CheckpointError if it cannot be read or is far too large."""
    try:
        size = path.stat().st_size
        if size > LARGEST_FILE:
            raise CheckpointError(
                f"{path} has {size} bytes; expected at most {LARGEST_FILE}. "
                "Fetch the checkpoint again."
            )
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. Check that it exists and that you "
            "may read it."
        ) from error
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`."
        )
    return data


def read_text(path: Path) -> str:
    """Return the contents of a UTF-8 file."""
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(
            f"{path} is not UTF-8 text: byte {error.start} is invalid. Fetch the checkpoint again."
        ) from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file."""
    try:
        value = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is not valid JSON: {error}. Fetch the checkpoint again."
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a JSON {type(value).__name__}; expected an object.")
    return value


def read_json_if_there(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one if the file does not exist."""
    return read_json(path) if path.exists() else {}
