"""The device that a name stands for, if PyTorch can use it here."""

import torch

from opengte.errors import EngineError


def usable_device(device: str | None) -> torch.device:
    """Return a device by name; None is a GPU if there is one. EngineError if it cannot be used.

    >>> usable_device("cpu")
    device(type='cpu')
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise EngineError(
            f"device is {device!r}, which PyTorch cannot use here: {str(error).splitlines()[0]}. "
            "Use 'cpu', or install a PyTorch build for this device."
        ) from None
    return place
