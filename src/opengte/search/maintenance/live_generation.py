"""Is this generation of an index still the one that answers? A look at its pointer."""

from collections.abc import Mapping

from opengte.search.stores.lancedb import generations

BUCKETS = ("s3", "gs", "az")


class Live:
    """What the pointer of a place was when an index was opened."""

    def __init__(self, place: str, options: Mapping[str, str] | None = None) -> None:
        self.place = place
        self.options = options
        self.remote = generations.is_remote(place)
        self._seen = () if self.remote else generations.seen(place)
        self.pointer = generations.read(place, options)
        self._same = True

    def unchanged(self) -> bool:
        """Return whether the live generation is the same still."""
        now = () if self.remote else generations.seen(self.place)
        if self.remote or now != self._seen:
            self._same = generations.read(self.place, self.options).current == self.pointer.current
            self._seen = now
        return self._same


def look(place: str, options: Mapping[str, str] | None = None) -> Live | None:
    """Return the pointer of a place, None where the store is one that cannot be switched."""
    scheme = place.partition("://")[0] if generations.is_remote(place) else ""
    return Live(place, options) if scheme in ("", *BUCKETS) else None
