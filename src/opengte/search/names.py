"""Which documents a person means who types a name: an id, a path, or the end of one."""

import difflib
import os
import posixpath
from collections.abc import Callable, Iterable

from opengte.errors import InputError
from opengte.search.parse.walk import path_to_id
from opengte.search.roots import Roots
from opengte.search.stores.base import Store
from opengte.search.stores.listing import list_documents

LISTED = 10  # names in a message


def named_documents(store: Store, roots: Roots, name: str) -> list[str]:
    """Return the ids that a name means: the id itself, or all documents of the file at a path."""
    path = path_to_id(os.path.abspath(name))
    names = list(dict.fromkeys([name, *roots.ids_of(path), path]))
    found = list(store.known(names))
    if found:
        return found[:1]
    return [one for several in store.documents_of(names).values() for one in several]


def typed_document(store: Store, roots: Roots, text: str) -> str | None:
    """Return the id of the document that a text means, None if there is none.

    The text is an id, a path, the end of one, or a file name without its ending; the case of
    letters decides only between several. Raises InputError if several documents fit.
    """
    found = named_documents(store, roots, text)
    if found:
        return found[0]
    fitting = typed_names((one.id for one in list_documents(store)), text)
    if len({_file(one) for one in fitting}) > 1:
        shown = ", ".join(f"`{one}`" for one in fitting[:LISTED])
        more = f" and {len(fitting) - LISTED:,} more" if len(fitting) > LISTED else ""
        raise InputError(f"`{text}` may be {shown}{more}: name one of them")
    return fitting[0] if fitting else None


def typed_names(names: Iterable[str], text: str) -> list[str]:
    """Return the names that fit a text best, sorted: all those of the first way in which any do."""
    held, wanted = sorted(names), path_to_id(os.path.normpath(text))
    ways: list[Callable[[str], bool]] = [
        lambda name: _ends(name, wanted),
        lambda name: _ends(name.casefold(), wanted.casefold()),
        lambda name: _stem(name).casefold() == wanted.casefold(),
    ]
    for fits in ways:
        if found := [name for name in held if fits(name)]:
            return found
    return []


def nearest_names(names: Iterable[str], text: str) -> list[str]:
    """Return a few names that are written nearly like a text."""
    by_base = {posixpath.basename(_file(one)).casefold(): one for one in names}
    wanted = posixpath.basename(text).casefold()
    return [by_base[one] for one in difflib.get_close_matches(wanted, by_base, 3)]


def _ends(name: str, wanted: str) -> bool:
    return any(x == wanted or x.endswith(f"/{wanted}") for x in (name, _file(name)))


def _file(name: str) -> str:
    return name.partition("#")[0]


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(_file(name)))[0]
