"""Optional packages that tests need, looked for without importing them: some take seconds."""

from importlib.util import find_spec

import pytest


def needs(*names: str) -> None:
    """Skip the test, or the module at whose top this stands, unless all packages are installed."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed", allow_module_level=True)
