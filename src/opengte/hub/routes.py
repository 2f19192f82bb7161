"""Models whose queries and documents have encoders of their own (Router of sentence-transformers).

Each encoder becomes a folder of links with modules.json of its own, which is read like any other.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opengte.errors import CheckpointError, UnsupportedModelError
from opengte.hub.composed import linked_files

ROUTES = ("query", "document")
_LARGEST = 1 << 20  # bytes of modules.json and router_config.json
_SHARED = ("README.md", "config_sentence_transformers.json", "SOURCE.json")


@dataclass(frozen=True)
class Routes:
    """The folders of the two encoders; default is the route of a text without a role."""

    query: Path
    document: Path
    default: str | None


def read_routes(folder: Path) -> Routes | None:
    """Return the encoders of a folder whose first module is a Router; None for any other folder.

    Raises CheckpointError for a file that is not as expected, UnsupportedModelError for other
    routes than `query` and `document`.
    """
    listing = folder / "modules.json"
    modules = _read(listing) if listing.is_file() else None
    if not isinstance(modules, list) or not modules or not isinstance(modules[0], dict):
        return None
    if str(modules[0].get("type", "")).rsplit(".", 1)[-1] not in ("Router", "Asym"):
        return None
    place = _inside(folder, modules[0].get("path"), listing)
    path = next(p for p in (place / "router_config.json", place / "config.json") if p.is_file())
    settings = _read(path)
    try:
        structure = {str(k): [str(m) for m in v] for k, v in settings["structure"].items()}
        types = {str(k): str(v) for k, v in settings["types"].items()}
        parameters = dict(settings.get("parameters") or {})
        if any(name not in types for names in structure.values() for name in names):
            raise KeyError("a module of `structure` is not among `types`")
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"`{path}` is not the file of a Router: {error!r}") from None
    if set(structure) != set(ROUTES) or parameters.get("route_mappings"):
        raise UnsupportedModelError(
            f"`{path}` has the routes {', '.join(structure)} and `route_mappings` "
            f"{parameters.get('route_mappings')!r}, expected the routes query and document, and no "
            "mappings. Load the folder of one route, if it is a whole model."
        )
    found = {
        route: _folder(folder, place, [(name, types[name]) for name in names], modules[1:], listing)
        for route, names in structure.items()
    }
    return Routes(found["query"], found["document"], parameters.get("default_route"))


def _folder(
    root: Path, place: Path, own: list[tuple[str, str]], more: list[Any], listing: Path
) -> Path:
    """Return a folder of links to the modules of one route and to those after the Router."""
    modules: list[dict[str, str]] = []
    links: dict[str, str] = {}
    for index, (name, kind) in enumerate(own):
        modules.append({"path": name if index else "", "type": kind})
        links |= _links(_inside(place, name, listing), f"{name}/" if index else "")
    for entry in more:
        name = str(entry.get("path", "")) if isinstance(entry, dict) else ""
        modules.append({"path": name, "type": str(entry["type"])})
        links |= _links(_inside(root, name, listing), f"{name}/")
    links |= {name: str(root / name) for name in _SHARED if (root / name).is_file()}
    listed = [{"idx": i, "name": str(i), **module} for i, module in enumerate(modules)]
    return linked_files(links, {"modules.json": json.dumps(listed)}, root.name)


def _links(folder: Path, before: str) -> dict[str, str]:
    files = folder.iterdir() if folder.is_dir() else ()
    return {before + path.name: str(path.absolute()) for path in files if path.is_file()}


def _inside(folder: Path, name: object, listing: Path) -> Path:
    parts = Path(str(name or ""))
    if parts.is_absolute() or ".." in parts.parts:
        raise CheckpointError(f"`{listing}` names a folder outside the checkpoint: {str(name)!r}")
    return folder / parts


def _read(path: Path) -> Any:
    if path.stat().st_size > _LARGEST:
        raise CheckpointError(f"`{path}` has more than {_LARGEST} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"`{path}` is not JSON: {error}") from None
