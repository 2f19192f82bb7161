"""Named roots of a collection: the folders that its files are in, and ids relative to them.

The id of a file is the name of its root and its path below it (`notes/git.md`), so moving a folder
changes one record and no document. Paths are absolute, and written as `path_to_id` writes them.
Files that an earlier version indexed have their path as id until a run names their folder.
"""

import os
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from opengte.errors import InputError
from opengte.search.filters import And, Condition, Filter, Not, Operator, Or
from opengte.search.parse.walk import is_inside, path_of, path_to_id

PLACES = ("path", "folder")  # fields of the metadata that are paths


@dataclass(frozen=True)
class Root:
    """A folder: the name that ids begin with, where it is, and where it was before."""

    name: str
    path: str
    former: tuple[str, ...] = ()

    @property
    def below(self) -> str:
        """The beginning of the path of whatever is in it."""
        return self.path.rstrip("/") + "/"


@dataclass(frozen=True)
class Roots:
    """The roots of a collection. It never changes; `added` and `moved` return another.

    >>> roots = Roots().added("/home/me/notes")
    >>> roots.id_of("/home/me/notes/git.md"), roots.path_of("notes/git.md")
    ('notes/git.md', '/home/me/notes/git.md')
    """

    roots: tuple[Root, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any], place: str) -> "Roots":
        """Return the roots that the settings of an index hold.

        An index that was copied with the folder it lies in finds the documents beside itself.
        """
        kept = settings.get("roots") or {"place": None, "roots": []}
        roots = [Root(one["name"], one["path"], tuple(one["former"])) for one in kept["roots"]]
        before, now = kept["place"], local_place(place)
        if before is not None and now is not None and before != now:
            roots = [_beside(one, before, now) for one in roots]
        return cls(tuple(roots))

    def settings(self, place: str) -> dict[str, Any]:
        """Return what `of` reads."""
        rows = [{"name": x.name, "path": x.path, "former": list(x.former)} for x in self.roots]
        return {"place": local_place(place), "roots": rows}

    # --- ids and paths ---------------------------------------------------------------------------

    def id_of(self, path: str) -> str:
        """Return the id of a path, which is the path itself where no root has it."""
        inside = [one for one in self.roots if is_inside(path, [one.path])]
        if not inside:
            return path
        root = max(inside, key=lambda one: len(one.path))
        rest = path[len(root.below) :]
        return f"{root.name}/{rest}" if rest else root.name

    def ids_of(self, path: str) -> list[str]:
        """Return the ids that a path may mean: of where folders are, else of where they were."""
        found = [self.id_of(path)]
        if found == [path]:
            for root in self.roots:
                for place in root.former:
                    found += [one for one in [Roots((Root(root.name, place),)).id_of(path)]]
        return list(dict.fromkeys(found))

    def path_of(self, identity: str) -> str:
        """Return where the file of an id is; an id that is in no root is returned as it is."""
        name, _, rest = identity.partition("/")
        root = self.get(name)
        return identity if root is None else root.below + rest if rest else root.path

    def get(self, name: str) -> Root | None:
        """Return the root of a name."""
        return next((one for one in self.roots if one.name == name), None)

    def inside(self, path: str) -> list[str]:
        """Return the scopes of ids whose files are at or below a path."""
        others = [one.name for one in self.roots if is_inside(one.path, [path])]
        return list(dict.fromkeys([self.id_of(path), *others]))

    # --- changes ---------------------------------------------------------------------------------

    def added(self, path: str, name: str | None = None) -> "Roots":
        """Return these roots and one more; its name is that of the folder, made distinct."""
        if name is None:
            base = posixpath.basename(path.rstrip("/")) or "root"
            taken = {one.name for one in self.roots}
            numbers = (base if n == 1 else f"{base}-{n}" for n in range(1, len(taken) + 2))
            name = next(one for one in numbers if one not in taken)
        elif not name or "/" in name or name != path_to_id(name):
            raise InputError(
                f"the name of a folder is {name!r}, expected one without `/`, `%`, `#` and control "
                "characters"
            )
        elif (there := self.get(name)) is not None:
            raise InputError(f"`{name}` is the name of `{there.path}` already; choose another")
        return Roots((*self.roots, Root(name, path)))

    def moved(self, name: str, path: str) -> "Roots":
        """Return these roots with one at another path; InputError if that is another root's."""
        taken = next((x for x in self.roots if x.name != name and x.path == path), None)
        if taken is not None:
            raise InputError(f"`{path}` is the folder `{taken.name}` of the index already")
        return Roots(tuple(_at(x, path) if x.name == name else x for x in self.roots))

    def without(self, name: str) -> "Roots":
        """Return these roots without one."""
        return Roots(tuple(one for one in self.roots if one.name != name))

    # --- filters ---------------------------------------------------------------------------------

    def translate(self, where: Filter) -> Filter:
        """Return a filter in which absolute paths, of now or before, mean the ids below roots."""
        match where:
            case And(parts):
                return And(tuple(map(self.translate, parts)))
            case Or(parts):
                return Or(tuple(map(self.translate, parts)))
            case Not(part):
                return Not(self.translate(part))
        if where.field not in PLACES:
            return where
        match where.operator:
            case "=" | "!=" | "in" | "not in":
                given = where.value if isinstance(where.value, tuple) else (where.value,)
                meant = tuple(x for one in given for x in (one, *self._ids(one)))
                if len(meant) == len(given):
                    return where
                several: Operator = "in" if where.operator in ("=", "in") else "not in"
                return Condition(where.field, several, meant)
            case "starts" | "contains" if isinstance(where.value, str) and "/" in where.value:
                return Or((where, *self._parts(where, where.value)))
        return where

    def _ids(self, value: Any) -> list[str]:
        absolute = isinstance(value, str) and value.startswith("/")
        return [one for one in self.ids_of(value) if one != value] if absolute else []

    def _parts(self, where: Condition, value: str) -> Iterator[Filter]:
        """Yield conditions on ids that hold where the path does, though the id itself does not."""
        for root in self.roots:
            for place in (root.path, *root.former):
                below = place.rstrip("/") + "/"
                starts = where.operator == "starts"
                if place.startswith(value) if starts else value in place:
                    yield Condition(where.field, "=", root.name)
                if below.startswith(value) if starts else value in below:
                    yield Condition(where.field, "starts", f"{root.name}/")
                elif starts and value.startswith(below):
                    yield Condition(where.field, "starts", f"{root.name}/{value[len(below) :]}")
                elif not starts:
                    for cut in range(1, len(value)):
                        if value[cut - 1] == "/" and below.endswith(value[:cut]):
                            rest = f"{root.name}/{value[cut:]}"
                            yield Condition(where.field, "starts", rest)


def local_place(place: str) -> str | None:
    """Return the absolute path of an index in a folder, None of one elsewhere."""
    return None if "://" in place else path_to_id(os.path.abspath(place))


def _at(root: Root, path: str) -> Root:
    former = dict.fromkeys([root.path, *root.former])
    former.pop(path, None)
    return Root(root.name, path, tuple(former))


def _beside(root: Root, before: str, now: str) -> Root:
    """Return a root where it is now, if it lies beside an index that was at another place."""
    way = posixpath.relpath(root.path, before)
    path = posixpath.normpath(posixpath.join(now, way))
    beside = way == ".." or (way.startswith("../") and not way.startswith("../../"))
    return _at(root, path) if beside and os.path.isdir(path_of(path)) else root
