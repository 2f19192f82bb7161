"""Programs of the system that tests here run."""

import shutil

import pytest


def program(*names: str) -> str:
    """Return the path of the first of these programs that there is; without any, the test fails."""
    for path in filter(None, map(shutil.which, names)):
        return path
    pytest.fail(
        f"{names[0]} is not installed; `apt-get install` the packages in tests/system/packages.txt"
    )
