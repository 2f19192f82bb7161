"""Reading the small files of a checkpoint folder: JSON objects, the front matter of its card."""

import json
import re
from pathlib import Path
from typing import Any

from opengte.errors import CheckpointError

LFS_POINTER = b"version https://git-lfs"
# the settings of the first module, by the names that sentence-transformers looks for, in its order
SENTENCE_CONFIGS = tuple(
    f"sentence_{name}_config.json"
    for name in "bert roberta distilbert camembert albert xlm-roberta xlnet".split()
)
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


def sentence_config(folder: Path) -> Path:
    """Return the settings of the first module of sentence-transformers, which need not be there."""
    paths = [folder / name for name in SENTENCE_CONFIGS]
    return next((path for path in paths if path.is_file()), paths[0])


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


def licence_of(folder: Path) -> str | None:
    """Return the licence that a package's record or the front matter of README.md names."""
    record = read_optional_json(folder / "SOURCE.json").get("licence")
    if isinstance(record, str) and record:
        return record
    return front_matter(folder, "license")


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
