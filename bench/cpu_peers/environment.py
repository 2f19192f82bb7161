"""The peers' own environment: made once for each state of the pins, and honest about failures."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cpu_peers.catalog import PINS, TORCH

INSTALL_SECONDS = 3600


@dataclass(frozen=True)
class Environment:
    """An interpreter with the peers, and why each package that is missing could not be had."""

    python: Path
    missing: dict[str, str]


def make(folder: Path) -> Environment:
    """Create or reuse the environment in a folder."""
    python = folder / "bin" / "python"
    stamp = folder / "installed.json"
    wanted = {"torch": TORCH, **{name: " ".join(pins) for name, pins in PINS.items()}}
    if stamp.is_file():
        found = json.loads(stamp.read_text())
        if found["pins"] == wanted:
            return Environment(python, found["missing"])
    print(f"Installing the peers into {folder}, once; this takes some minutes ...", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (folder / ".gitignore").write_text("*\n")
    missing = _install(python)
    # OpenVINO and NNCF work without their telemetry, and a benchmark must not report to anybody
    _pip(python, "uninstall", "--yes", "openvino-telemetry")
    stamp.write_text(json.dumps({"pins": wanted, "missing": missing}, indent=1))
    return Environment(python, missing)


def _install(python: Path) -> dict[str, str]:
    failed = _pip(python, "install", TORCH)
    if failed:
        return dict.fromkeys(PINS, f"PyTorch could not be installed: {failed}")
    missing = {}
    for name, pins in PINS.items():
        print(f"  {name}", file=sys.stderr)
        reason = _pip(python, "install", "--prefer-binary", TORCH, *pins)
        if reason:
            missing[name] = reason
    return missing


def _pip(python: Path, *arguments: str) -> str:
    """Run pip; return the last line of its error, `` where it succeeded."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        return f"pip did not end within {INSTALL_SECONDS} s"
    if done.returncode == 0:
        return ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or done.stderr.splitlines() or ["pip failed"])[-1][:300]
