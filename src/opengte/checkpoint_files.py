"""Reading the small files of a checkpoint folder: JSON objects, the front matter of its card."""

import json
import re
from pathlib import Path
from typing import Any

from opengte.errors import CheckpointError

LFS_POINTER = b"version https://git-lfs"
MAX_JSON = 64 << 20  # the largest configuration file, in bytes


def read_json_config(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; CheckpointError if it is missing or malformed."""
    if not path.is_file():
        raise CheckpointError(f"`{path.parent}` has no {path.name}: it is not a whole checkpoint")
    if path.stat().st_size > MAX_JSON:
        raise CheckpointError(f"`{path}` has {path.stat().st_size} bytes, more than {MAX_JSON}")
    raw = path.read_bytes()
    if raw.startswith(LFS_POINTER):
        raise CheckpointError(
            f"`{path}` is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull`."
        )
    try:
        value = json.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"`{path}` is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"`{path}` holds a {type(value).__name__}, expected an object")
    return value


def read_optional_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one if there is none."""
    return read_json_config(path) if path.is_file() else {}


def read_length(path: Path, name: str) -> int | None:
    """Return a length in tokens that a file names; one of millions means that there is no limit."""
    value = read_optional_json(path).get(name)
    return int(value) if isinstance(value, int | float) and 1 <= value < 10**7 else None


def is_of_new_layout(folder: Path) -> bool:
    """Return whether sentence-transformers 6 or later wrote the folder.

    It keeps the maximum length as the tokenizer's, which in older folders may be anything larger.
    """
    version = read_optional_json(folder / "config_sentence_transformers.json").get("__version__")
    named = version.get("sentence_transformers") if isinstance(version, dict) else None
    major = str(named).partition(".")[0]
    return major.isdigit() and int(major) >= 6


def front_matter(folder: Path, key: str) -> str | None:
    """Return a value, or the first of a list, that the front matter of README.md names."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    head = card.read_bytes()[:65536].decode("utf-8", "replace")
    front = re.match(r"---\n(.*?)\n---", head, re.DOTALL)
    pattern = rf"^{key}:\s*(?:- +)?(\S+)"
    found = re.search(pattern, front[1], re.MULTILINE) if front else None
    return str(found[1]) if found else None
