"""Every error and warning that OpenGTE raises on purpose.

    OpenGTEError
    ├── CheckpointError            files of a model are missing, unreadable or contradict each other
    │   ├── WeightsError           a tensor is missing, unexpected, misshapen, cut off or not finite
    │   └── UnsupportedModelError  the architecture, or one of its settings, is not supported
    ├── DownloadError              a model could not be fetched
    │   ├── NotFoundError          no such model, revision, file or package
    │   ├── UnauthorizedError      the model is gated or private
    │   ├── OfflineError           offline mode is on and the files are not in the cache
    │   └── IntegrityError         a file does not have the announced size or checksum
    ├── InputError                 a text, argument or file from the caller (also a ValueError)
    │   ├── DamagedIndexError      a file of an index is not as it was written
    │   └── TruncationError        an input is too long and truncation="error"
    ├── CapabilityError            the model cannot do what was asked (no sparse head)
    ├── EngineError                no engine can run the model here, or an engine failed
    ├── ServiceError               the server cannot, or may not, answer a request
    │   ├── UnknownModelError      the server has no model of that name
    │   ├── NotReadyError          the model is loading, failed to load or does not respond
    │   ├── OverloadedError        the queue is full; says when to retry
    │   ├── DeadlineError          the request's deadline passed before it was computed
    │   ├── AccessError            the API key is missing, unknown or not allowed to do this
    │   └── LimitError             a rate limit or quota is exhausted; says when to retry
    └── MissingExtraError          an optional dependency is not installed (also an ImportError)

    OpenGTEWarning (a UserWarning)
    ├── CheckpointWarning          files contradict what was published, or are not wholly applied
    ├── DimensionWarning           a vector was cut to a size that the model was not trained for
    ├── FallbackWarning            a slower engine, a lower precision or an older copy is used
    └── TruncationWarning          inputs lost tokens, and the method cannot report which

Messages name the argument, the value received, what was expected and what to do.
"""


class OpenGTEError(Exception):
    """Base of all errors raised by OpenGTE."""


class CheckpointError(OpenGTEError):
    """Files of a model are missing, unreadable or contradict each other."""


class WeightsError(CheckpointError):
    """A tensor is missing, unexpected, misshapen, truncated or not finite."""


class UnsupportedModelError(CheckpointError):
    """The architecture, or one of its settings, is not supported."""


class DownloadError(OpenGTEError):
    """A model could not be fetched."""


class NotFoundError(DownloadError):
    """There is no such model, revision, file or package."""


class UnauthorizedError(DownloadError):
    """The model is gated or private."""


class OfflineError(DownloadError):
    """Offline mode is on and the files are not in the cache."""


class IntegrityError(DownloadError):
    """A file does not have the announced size or checksum."""


class InputError(OpenGTEError, ValueError):
    """A text, argument or file from the caller cannot be used."""


class DamagedIndexError(InputError):
    """A file of an index is not as it was written; the message names what mends it."""


class TruncationError(InputError):
    """An input is longer than the model takes and truncation is `error`."""


class CapabilityError(OpenGTEError):
    """The model cannot do what was asked."""


class EngineError(OpenGTEError):
    """No engine can run the model here, or an engine failed."""


class ServiceError(OpenGTEError):
    """The server cannot, or may not, answer a request."""


class UnknownModelError(ServiceError):
    """The server has no model of that name."""


class NotReadyError(ServiceError):
    """The model is loading, failed to load or does not respond."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class OverloadedError(ServiceError):
    """The queue is full."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds, from the measured drain rate


class DeadlineError(ServiceError):
    """The request's deadline passed before it was computed."""


class AccessError(ServiceError):
    """The API key is missing, unknown or not allowed to do this."""

    def __init__(self, message: str, authenticated: bool) -> None:
        super().__init__(message)
        self.authenticated = authenticated  # False: 401, no valid key; True: 403, not allowed


class LimitError(ServiceError):
    """A rate limit or quota is exhausted."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after  # seconds


class CreditError(LimitError):
    """A team's credit is used up; trying again does not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 0.0)


class MissingExtraError(OpenGTEError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package `{package}`, which is not installed. "
            f"Install it with `pip install 'opengte[{extra}]'`."
        )


class OpenGTEWarning(UserWarning):
    """Base of all warnings issued by OpenGTE."""


class CheckpointWarning(OpenGTEWarning):
    """Files of a model contradict what was published, or are not wholly applied."""


class DimensionWarning(OpenGTEWarning):
    """A vector was cut to a size that the model was not trained for."""


class FallbackWarning(OpenGTEWarning):
    """A slower engine, a lower precision or an older copy than requested is used."""


class TruncationWarning(OpenGTEWarning):
    """Inputs lost tokens, and the called method cannot report which."""
