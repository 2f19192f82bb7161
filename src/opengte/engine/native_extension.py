"""The compiled extension `opengte._native`: whether it is installed, and its instruction sets."""

import importlib
import os
from typing import Any

from opengte.errors import EngineError


def available() -> bool:
    """Return whether the compiled extension is installed."""
    try:
        load_extension()
    except EngineError:
        return False
    return True


def isa_levels() -> tuple[str, ...]:
    """Return the instruction sets that this CPU and this build support, best first."""
    return tuple(load_extension().levels())


def load_extension() -> Any:
    """Import the extension; EngineError if it is not installed."""
    try:
        return importlib.import_module("opengte._native")
    except ImportError as error:
        raise EngineError(
            f"the compiled CPU engine is not installed ({error}). Reinstall OpenGTE where a C++20 "
            "compiler is present, or use engine='torch'."
        ) from None


def choose_isa() -> str:
    """Return the instruction set to use: `$OPENGTE_ISA`, or else the best one."""
    levels = isa_levels()
    wanted = os.environ.get("OPENGTE_ISA")
    if not wanted:
        return levels[0]
    if wanted not in levels:
        raise EngineError(f"OPENGTE_ISA is {wanted!r}, expected one of {', '.join(levels)}")
    return wanted
