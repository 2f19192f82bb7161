"""Hiding the progress bars of huggingface_hub wherever ours are hidden."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from opengte.hub.cache_paths import shows_progress

_GROUP = "huggingface_hub.http_get"
_lock = threading.Lock()
_users = 0
_before: bool | None = None


@contextmanager
def bars_only_on_terminals() -> Iterator[None]:
    """Hide the bars of huggingface_hub unless `shows_progress` is true, and restore its setting."""
    if shows_progress():
        yield
        return
    _switch(+1)
    try:
        yield
    finally:
        _switch(-1)


def _switch(step: int) -> None:
    """Count concurrent users: the first one hides the bars, the last one restores the setting."""
    from huggingface_hub.utils.tqdm import progress_bar_states

    global _users, _before
    with _lock:
        if _users == 0:
            _before = progress_bar_states.get(_GROUP)
        _users += step
        if _users > 0:
            progress_bar_states[_GROUP] = False
        elif _before is None:
            progress_bar_states.pop(_GROUP, None)
        else:
            progress_bar_states[_GROUP] = _before
