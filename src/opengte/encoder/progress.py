"""A progress bar for long work."""

import sys
from typing import Protocol, Self

PROGRESS_DELAY = 2.0  # seconds of work before a bar appears


class ProgressBar(Protocol):
    """What `Encoder` needs of a progress bar."""

    def update(self, texts: int, /) -> object:
        """Advance by a number of texts."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> object: ...


class NoProgressBar:
    """A progress bar that draws nothing."""

    def update(self, texts: int, /) -> None:
        """Draw nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Do nothing."""


def progress_bar(total: int | None, progress: bool | None) -> ProgressBar:
    """Return a progress bar; progress None draws it for long work on a terminal only."""
    if not (sys.stderr.isatty() if progress is None else progress):
        return NoProgressBar()
    from tqdm import tqdm  # takes as long to import as a short text takes to embed

    delay = PROGRESS_DELAY if progress is None else 0.0
    shown: ProgressBar = tqdm(total=total, unit=" texts", delay=delay, leave=False)
    return shown
