"""The names that `opengte.evaluate` offers."""

import subprocess
import sys

import pytest

from opengte import evaluate


@pytest.mark.parametrize("name", evaluate.__all__)
def test_every_name_is_there(name):
    assert getattr(evaluate, name).__name__ == name
    assert getattr(evaluate, name).__module__.startswith("opengte.evaluate.")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute `compare_models`"):
        evaluate.compare_models  # noqa: B018


def test_importing_the_package_loads_nothing_heavy():
    code = "import sys, opengte.evaluate; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"mteb", "numpy", "torch", "ir_measures"} & set(loaded.stdout.split())
