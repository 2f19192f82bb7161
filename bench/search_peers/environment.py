"""The peers' own environment, made once for each state of the pins."""

import json
import subprocess
import sys
from pathlib import Path

PINS = (
    "torch==2.13.0",
    "sentence-transformers==6.2.0",
    "transformers==5.23.0",
    "lancedb==0.40.0",
    "chromadb==1.5.9",
)
INSTALL_SECONDS = 3600


def python(folder: Path) -> Path:
    """Return the interpreter of the environment, made where it is missing or out of date."""
    stamp, interpreter = folder / "installed.json", folder / "bin" / "python"
    if stamp.is_file() and json.loads(stamp.read_text()) == list(PINS):
        return interpreter
    print(f"Installing the peers into {folder}, once; this takes some minutes ...", file=sys.stderr)
    _run([sys.executable, "-m", "venv", str(folder)])
    (folder / ".gitignore").write_text("*\n")
    options = ["--disable-pip-version-check", "--quiet", "--prefer-binary"]
    _run([str(interpreter), "-m", "pip", "install", *options, PINS[0]])  # no other build of it
    _run([str(interpreter), "-m", "pip", "install", *options, *PINS])
    stamp.write_text(json.dumps(PINS, indent=1))
    return interpreter


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise SystemExit(f"`{' '.join(command[:5])} ...` failed: {lines[-1][:300]}")
