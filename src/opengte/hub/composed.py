"""A checkpoint whose files lie in several folders, as one folder of links.

An adapter alone is one: its base model has the weights and what the adapter's folder leaves out.
So is a model of sentence-transformers with its weights in `0_Transformer`. The folder of links is
in the cache, named by what it links to, so that it never changes.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from opengte.errors import (
    CheckpointError,
    DownloadError,
    InputError,
    NotFoundError,
    UnsupportedModelError,
)
from opengte.hub import file_selection
from opengte.hub.cache_paths import ModelLocation, cache_root

ADAPTER = "adapter_config.json"
_LARGEST = 1 << 20  # bytes of adapter_config.json and modules.json that are read here

# files that belong together, and those of them by which a folder has them all
_GROUPS = (
    (
        r"tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|merges\.txt"
        r"|vocab\.(json|txt)|.+\.model",
        r"tokenizer\.json|vocab\.(json|txt)|.+\.model",
    ),
    (
        r"modules\.json|sentence_[a-z-]+_config\.json|config_sentence_transformers\.json|\d+_\w+/.+",
        r"modules\.json|\d+_\w+/.+",
    ),
)
_SUFFIXES = (".json", ".txt", ".md", ".model", ".safetensors", ".bin", ".pt")

Fetch = Callable[[str, str | None], ModelLocation]


def whole_checkpoint(location: ModelLocation, fetch: Fetch) -> ModelLocation:
    """Return a location with all files of its model in one folder.

    fetch finds the base model of an adapter by its name and revision. Raises CheckpointError if it
    cannot be had, or is an adapter itself, and UnsupportedModelError for several adapters.
    """
    folder = location.folder
    inner = folder / (_transformer(folder) or ".")
    folders = [folder] if inner == folder else [inner, folder]
    base = None
    adapter = next((each for each in folders if (each / ADAPTER).is_file()), None)
    if adapter is not None:
        _refuse_others(adapter)
    if adapter is not None and not _has_weights(folders):
        base = _base(adapter, fetch)
        folders.append(base.folder)
    if len(folders) == 1:
        return location
    return replace(location, folder=_linked(folders, folder.name), base=base)


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder describes a model or an adapter, itself or in its first module."""
    place = folder / (_transformer(folder) or ".")
    described = (place / "config.json").is_file() or (place / ADAPTER).is_file()
    routed = (folder / "router_config.json").is_file()
    return described or routed or file_selection.is_static(folder, place)


def origin(path: Path) -> Path:
    """Return the file that a link in a folder of links stands for; any other path as it is."""
    links = cache_root() / "composed"
    return path.readlink() if path.is_relative_to(links) and path.is_symlink() else path


def _transformer(folder: Path) -> str:
    """Return the folder of the first module in modules.json, if the model is there."""
    if (folder / "config.json").is_file() or (folder / ADAPTER).is_file():
        return ""
    modules = _read(folder / "modules.json")
    if not isinstance(modules, list) or not modules or not isinstance(modules[0], dict):
        return ""
    name = str(modules[0].get("path", ""))
    plain = re.fullmatch(r"\w[\w.-]*", name)
    return name if plain and (folder / name).is_dir() else ""


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size <= _LARGEST:
            return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        pass  # what is not there or is not JSON is refused where it is needed
    return None


def _has_weights(folders: list[Path]) -> bool:
    names = (path.name for folder in folders for path in folder.iterdir())
    return any(map(file_selection.is_model_weights, names))


def _refuse_others(folder: Path) -> None:
    others = sorted(path.parent.name for path in folder.glob(f"*/{ADAPTER}"))
    if others:
        raise UnsupportedModelError(
            f"`{folder / ADAPTER}` is one of several adapters: there are more in "
            f"{', '.join(others)}. One adapter is merged: move the others away, or give the folder "
            "of one. To apply several, merge them (`merge_and_unload` of peft) and save the model."
        )


def _base(folder: Path, fetch: Fetch) -> ModelLocation:
    """Return the location of an adapter's base model."""
    path = folder / ADAPTER
    settings = _read(path)
    if not isinstance(settings, dict):
        raise CheckpointError(f"`{path}` is not JSON: expected an object of settings")
    name, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    remedy = (
        "Set it to the folder or the Hub id of the base model, or put the adapter's files beside "
        "the base's."
    )
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"`{path}` is an adapter without weights beside it, and its `base_model_name_or_path` "
            f"is {name!r}. {remedy}"
        )
    if not isinstance(revision, str | None):
        raise CheckpointError(f"`{path}`: `revision` is {revision!r}, expected a string or null")
    try:
        found = fetch(name, None if Path(name).expanduser().is_dir() else revision or None)
    except (CheckpointError, DownloadError, InputError, NotFoundError) as error:
        raise CheckpointError(
            f"the base model of the adapter `{path}` (`base_model_name_or_path` is {name!r}) "
            f"cannot be had: {error} {remedy}"
        ) from error
    return _plain(found, path)


def _plain(base: ModelLocation, path: Path) -> ModelLocation:
    """Return a base model with its files in one folder; CheckpointError if it is an adapter."""
    inner = base.folder / (_transformer(base.folder) or ".")
    if any((folder / ADAPTER).is_file() for folder in (base.folder, inner)):
        raise CheckpointError(
            f"the base model `{base.name}` of `{path}` is itself an adapter; expected a whole "
            "model. Merge that adapter with its own base first."
        )
    if inner == base.folder:
        return base
    return replace(base, folder=_linked([inner, base.folder], base.folder.name))


def _linked(folders: list[Path], name: str) -> Path:
    """Return a folder with links to the files of folders; the first that has a file counts."""
    links: dict[str, Path] = {}
    complete: set[int | None] = set()
    for folder in folders:
        files = _files(folder, skip=folders[0])
        for file, path in files.items():
            if _group(file) not in complete:
                links.setdefault(file, path)
        complete |= {
            index
            for index, (_, telling) in enumerate(_GROUPS)
            if any(re.fullmatch(telling, file) for file in files)
        }
    return _write({file: str(path) for file, path in sorted(links.items())}, name)


def _group(file: str) -> int | None:
    return next((i for i, (members, _) in enumerate(_GROUPS) if re.fullmatch(members, file)), None)


def _files(folder: Path, skip: Path) -> dict[str, Path]:
    """Return the files of a checkpoint folder, and those of its modules except one, by name."""
    modules = [
        path
        for path in folder.iterdir()
        if file_selection.MODULE_FOLDER.fullmatch(path.name) and path.is_dir() and path != skip
    ]
    found = [path for place in (folder, *modules) for path in place.iterdir()]
    return {
        path.relative_to(folder).as_posix(): path.absolute()
        for path in found
        if path.suffix in _SUFFIXES and path.is_file()
    }


def linked_files(links: dict[str, str], texts: dict[str, str], name: str) -> Path:
    """Return a folder of links and of small files; its path has a hash of what it holds."""
    return _write(links, name, texts)


def _write(links: dict[str, str], name: str, texts: dict[str, str] | None = None) -> Path:
    """Write a folder of links, unless it is there; its path has a hash of what it links to."""
    text = json.dumps([links, texts] if texts else links)
    folder = cache_root() / "composed" / hashlib.sha256(text.encode()).hexdigest()[:32]
    if folder.is_dir():
        return folder / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".composing-", dir=folder.parent))
        for file, target in links.items():
            (partial / name / file).parent.mkdir(parents=True, exist_ok=True)
            (partial / name / file).symlink_to(target)
        for file, content in (texts or {}).items():
            (partial / name / file).write_text(content, encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:
            shutil.rmtree(partial)
            if not folder.is_dir():  # unless another process was faster
                raise
    except OSError as error:
        raise CheckpointError(
            f"`{folder.parent}` cannot hold the links that put `{name}` and its base together: "
            f"{error}. Set OPENGTE_CACHE to a folder where links can be made."
        ) from error
    return folder / name
