"""What the source of a package says about its structure: imports, folders and public names."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

Graph = Mapping[str, set[str]]
Floors = Sequence[Sequence[str]]


def modules(root: Path) -> dict[str, Path]:
    """Map each module below `root` to its file; names are paths from `root`, `serve/types.py`."""
    return {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}


def imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports, inside functions too, not for type checkers.

    `from a.b import c` is `a.b.c`, whether `c` is a module or a definition of `a.b`.
    """
    names: set[str] = set()
    for node in _executed(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def import_graph(root: Path) -> dict[str, set[str]]:
    """Map each module of the package in `root` to the modules of the package that it imports."""
    files = modules(root)
    return {
        name: {module for target in imports(path) if (module := _module(root, files, target))}
        for name, path in files.items()
    }


def circle(graph: Graph) -> list[str]:
    """Return a shortest circle of imports, its first module again at its end, or nothing."""
    circles = [path for name in graph if (path := path_between(graph, name, name))]
    return min(circles, key=len, default=[])


def path_between(graph: Graph, start: str, end: str) -> list[str]:
    """Return the shortest chain of one or more imports from `start` to `end`, or nothing."""
    before: dict[str, str] = {}
    level = [start]
    while level and end not in before:
        following = []
        for name in level:
            for to in sorted(graph.get(name, set()) - before.keys()):
                before[to] = name
                following.append(to)
        level = following
    if end not in before:
        return []
    path = [end]
    while len(path) == 1 or path[-1] != start:
        path.append(before[path[-1]])
    return path[::-1]


def crowded(root: Path, most: int, exempt: Iterable[str] = ()) -> dict[str, int]:
    """Return the folders below `root` with more than `most` modules, `__init__` not counted."""
    sizes: dict[str, int] = defaultdict(int)
    for path in modules(root).values():
        if path.name != "__init__.py":
            sizes[path.parent.relative_to(root).as_posix()] += 1
    return {name: size for name, size in sizes.items() if size > most and name not in exempt}


def not_downwards(graph: Graph, floors: Floors, folder: str = "") -> set[tuple[str, str]]:
    """Return the imports inside `folder` that do not lead to a lower floor (listed from the top).

    A floor holds names of modules (without `.py`) and folders, which never import each other.
    """
    level = {room: number for number, rooms in enumerate(reversed(floors)) for room in rooms}
    below = f"{folder}/" if folder else ""
    edges: set[tuple[str, str]] = set()
    for name in graph:
        mine = _room(name, below)
        if mine is None:
            continue
        assert mine in level, f"{name} is on no floor: add `{mine}`"
        for to in graph[name]:
            other = _room(to, below)
            if other is not None and other != mine and level[other] >= level[mine]:
                edges.add((name, to))
    return edges


def public_names(root: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Map the public top-level classes, and the functions, to the modules that define them."""
    classes: dict[str, set[str]] = defaultdict(set)
    functions: dict[str, set[str]] = defaultdict(set)
    for name, path in modules(root).items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                classes[node.name].add(name)
            elif isinstance(
                node, ast.FunctionDef | ast.AsyncFunctionDef
            ) and not node.name.startswith("_"):
                functions[node.name].add(name)
    return classes, functions


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, leaving out the bodies of `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            for other in child.orelse:
                yield from _executed(other)
        else:
            yield from _executed(child)


def _module(root: Path, files: Mapping[str, Path], target: str) -> str | None:
    """Return the module that a dotted name is, or is defined in, if it is of this package."""
    package, *parts = target.split(".")
    if package != root.name:
        return None
    for length in range(len(parts), -1, -1):
        stem = "/".join(parts[:length])
        for name in (f"{stem}.py", f"{stem}/__init__.py".removeprefix("/")):
            if name in files:
                return name
    return None


def _room(name: str, below: str) -> str | None:
    """Return the part of a path just below a folder, or None for what is elsewhere."""
    inside = name.removeprefix(below)
    if (below and inside == name) or inside == "__init__.py":
        return None
    return inside.split("/")[0].removesuffix(".py")
