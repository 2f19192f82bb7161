"""The peers' own environments: made once for each state of the pins."""

import json
import subprocess
import sys
from pathlib import Path

from serve_peers.catalog import PINS, TORCH

INSTALL_SECONDS = 3600


class PeerError(Exception):
    """A peer could not be installed, prepared or started."""


def python(root: Path, name: str) -> Path:
    """Return the interpreter of a peer's environment, made where it is missing or out of date."""
    folder = root / name
    stamp = folder / "installed.json"
    wanted = [TORCH, *PINS[name]]
    interpreter = folder / "bin" / "python"
    if stamp.is_file() and json.loads(stamp.read_text()) == wanted:
        return interpreter
    print(f"Installing {name} into {folder}, once; this takes some minutes ...", file=sys.stderr)
    root.mkdir(exist_ok=True)
    (root / ".gitignore").write_text("*\n")
    _run([sys.executable, "-m", "venv", str(folder)])
    options = ["--disable-pip-version-check", "--quiet", "--prefer-binary"]
    _run([str(interpreter), "-m", "pip", "install", *options, *wanted])
    stamp.write_text(json.dumps(wanted, indent=1))
    return interpreter


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        raise PeerError(f"`{' '.join(command)}` took more than {INSTALL_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PeerError(f"`{' '.join(command[:5])} ...` failed: {lines[-1][:300]}")
