"""Errors of the Hub: which ones to retry, and how they become a DownloadError with advice."""

from collections.abc import Iterator
from pathlib import Path

from opengte.errors import DownloadError, NotFoundError, OfflineError, UnauthorizedError
from opengte.hub import disk

_HUB = "https://huggingface.co"
_TRANSIENT = {408, 425, 429}  # as 5xx: the same request may succeed later
_DENIED = {401, 403}


def hub_exceptions() -> tuple[type[Exception], ...]:
    """Return the exceptions of huggingface_hub, whichever HTTP library it uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)))


def is_outage(error: BaseException) -> bool:
    """Return whether the network or the server failed, not the request or this machine."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled) or disk.is_disk_full(error):
        return False
    if (status := _status(error)) is not None:
        return status >= 500 or status in _TRANSIENT
    if isinstance(error, LocalEntryNotFoundError):  # no connection, and not in the cache
        return error.__cause__ is not None and is_outage(error.__cause__)
    return not _is_local(error)


def to_download_error(
    error: Exception, repository: str, revision: str, store: Path
) -> DownloadError:
    """Convert an error of huggingface_hub to a DownloadError that says what to do."""
    if disk.is_disk_full(error):
        return disk.disk_full_error(store, None)
    for cause in _causes(error):
        if found := _refused(cause, repository, revision):
            return found
    if _is_local(error):
        return DownloadError(
            f"{repository} could not be stored in the cache {store}: {first_line(error)}. Make the "
            "folder writable, or choose another one with HF_HOME."
        )
    return DownloadError(
        f"{repository} (revision {revision}) could not be fetched: {first_line(error)}. Check the "
        "connection, or set HF_ENDPOINT to a mirror that you can reach. What has arrived is kept: "
        "run the command again to continue. With the files in the cache, offline=True "
        "(HF_HUB_OFFLINE=1) needs no network."
    )


def first_line(error: BaseException) -> str:
    """Return the type and the first line of an error."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}".rstrip(".: ")


def _refused(error: BaseException, repository: str, revision: str) -> DownloadError | None:
    """Return the DownloadError for a response that no retry changes, or None."""
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return OfflineError(
            f"{repository} cannot be fetched: HF_HUB_OFFLINE was set when huggingface_hub was "
            f"imported. Unset it and run `gte pull {repository}`."
        )
    if isinstance(error, errors.GatedRepoError):
        return _unauthorized(repository, status)
    if isinstance(error, errors.RevisionNotFoundError):
        return NotFoundError(
            f"{repository} has no revision {revision!r}. Expected a branch, a tag or a full "
            f"commit; {_HUB}/{repository}/commits lists them."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return _no_repository(repository)
    if status in _DENIED:
        return _unauthorized(repository, status)
    if status == 404:
        return NotFoundError(
            f"{repository} (revision {revision}): the server has not the file or page asked for "
            f"({first_line(error)}). Check the name, and that HF_ENDPOINT, if it is set, is a "
            "mirror with this repository."
        )
    return None


def _no_repository(repository: str) -> NotFoundError:
    return NotFoundError(
        f"There is no model {repository!r} on the Hub, or it is private. Check the spelling "
        "(`org/name`; `gte models` lists known ones); for a private model set HF_TOKEN."
    )


def _unauthorized(repository: str, status: int | None) -> UnauthorizedError:
    return UnauthorizedError(
        f"Access to {repository} was denied (HTTP {status}): the model is gated or private. Accept "
        f"its licence at {_HUB}/{repository}, then set HF_TOKEN to a token of that account that "
        "may read it (or run `hf auth login`)."
    )


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_local(error: BaseException) -> bool:
    """Return whether an error comes from the local file system."""
    connection = isinstance(error, ConnectionError | TimeoutError)
    return isinstance(error, OSError) and error.errno is not None and not connection


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
