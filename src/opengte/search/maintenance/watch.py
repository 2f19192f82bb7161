"""Watch folders, and bring their changes into the index within seconds.

Changes are gathered until a path has been quiet for a moment, so that half-written files and the
temporary ones of editors are not read; then one run takes all of them. A folder that vanishes
removes nothing, as in any run, and is watched again when it is back. From time to time, and after
it was away, everything is looked at.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from opengte.errors import MissingExtraError
from opengte.search.ingest.pipeline import IngestOptions
from opengte.search.ingest.writer import IngestReport
from opengte.search.parse import walk

if TYPE_CHECKING:
    from opengte.search.kb import KnowledgeBase

QUIET = 1.0  # seconds without an event after which a path is read
LONGEST = 10.0  # seconds after which a path is read though it never is quiet
LOOK = 0.2  # seconds between looks at what was gathered
EVERYTHING = 3600.0  # seconds between runs over everything: events can be lost

Told = Callable[[IngestReport], None]


class Changes:
    """Paths that changed, each with the times of its first and last event. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: dict[str, tuple[float, float]] = {}

    def add(self, path: str, now: float) -> None:
        """Note a change of a path."""
        with self._lock:
            first, _ = self._times.get(path, (now, now))
            self._times[path] = first, now

    def take(self, now: float) -> list[str]:
        """Return, and forget, the paths that are quiet by now, or have waited for long."""
        with self._lock:
            ready = [
                path
                for path, (first, last) in self._times.items()
                if now - last >= QUIET or now - first >= LONGEST
            ]
            for path in ready:
                del self._times[path]
        return outermost(ready)


def outermost(paths: Iterable[str]) -> list[str]:
    """Return the paths that lie in none of the others, sorted."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not walk.is_inside(path, found):
            found.append(path)
    return found


def is_watched(path: str, tops: Sequence[str]) -> bool:
    """Return whether a walk would come to a path: nothing on the way is hidden, or an index."""
    top = next((one for one in tops if walk.is_inside(path, [one])), None)
    if top is None:
        return False
    place = top
    for name in path[len(top) :].strip("/").split("/") if path != top else ():
        if walk.skip_reason(name):
            return False
        if os.path.exists(os.path.join(place, walk.INDEX_MARKER)):
            return False
        place = os.path.join(place, name)
    return True


class Watcher:
    """Watches files and folders for an index until it is stopped."""

    def __init__(
        self, kb: "KnowledgeBase", paths: Sequence[str], options: IngestOptions, told: Told
    ) -> None:
        try:
            from watchdog.observers import Observer
        except ImportError:
            raise MissingExtraError("watchdog", "search", "Watching folders") from None
        self.kb, self.options, self.told = kb, options, told
        self.tops = [os.path.abspath(path) for path in paths]
        self._changes = Changes()
        self._observer: Any = Observer()
        self._watches: dict[str, tuple[int, Any]] = {}  # top -> inode of what is watched, its watch
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End `run` after the run that is in progress."""
        self._stopped.set()

    def run(self) -> None:
        """Bring the index up to date, and keep it so; changes since the call are not missed."""
        self._observer.start()
        try:
            self._watch_again()
            self._index(self.tops)
            looked = time.monotonic()
            while not self._stopped.wait(LOOK):
                back = self._watch_again()
                if back or time.monotonic() - looked > EVERYTHING:
                    looked = time.monotonic()
                    self._index(back or self.tops)
                elif changed := self._changes.take(time.monotonic()):
                    self._index(changed)
        finally:
            self._observer.stop()
            self._observer.join()

    def _index(self, paths: Sequence[str]) -> None:
        """Run over paths; one that is still being written comes again."""
        there = [one for one in paths if os.path.exists(one) or one not in self.tops]
        whole = any(one in self.tops for one in there or paths)
        options = self.options if whole else replace(self.options, watched=True)
        report = self.kb.index(there or paths, options)
        for place, reason in report.problems:
            if reason.startswith("changed while"):
                self._changes.add(place, time.monotonic())
        if report.new or report.changed or report.removed or report.problems:
            self.told(report)

    def _watch_again(self) -> list[str]:
        """Watch folders as they are now; return those that vanished or came back."""
        back = []
        for top in self.tops:
            try:
                inode = os.stat(top).st_ino
            except OSError:
                inode = 0
            before = self._watches.get(top)
            if before is not None and before[0] == inode:
                continue
            if before is not None and before[1] is not None:
                self._observer.unschedule(before[1])
            watch = None
            if inode:
                folder = top if os.path.isdir(top) else os.path.dirname(top)
                watch = self._observer.schedule(self, folder, recursive=os.path.isdir(top))
            self._watches[top] = inode, watch
            back += [top] if before is not None else []
        return back

    def dispatch(self, event: Any) -> None:
        """Take an event of watchdog."""
        if event.event_type in ("opened", "closed_no_write"):
            return
        if event.is_directory and event.event_type == "modified":
            return  # what changed in it has an event of its own
        for path in (event.src_path, getattr(event, "dest_path", "")):
            name = os.fsdecode(path) if path else ""
            if name and is_watched(name, self.tops):
                self._changes.add(name, time.monotonic())
