"""Child processes: asked by JSON lines, bounded in time, ended by their own handles."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from pathlib import Path
from typing import IO, Any

BENCH = Path(__file__).resolve().parent.parent
GRACE = 5.0  # seconds that a process gets to end by itself


class ChildError(Exception):
    """A child crashed, ran out of time or answered with an error."""


def environment(threads: int, own: bool) -> dict[str, str]:
    """Return the environment of a child; only OpenGTE's own sees this program's PYTHONPATH."""
    inherited = os.environ.get("PYTHONPATH", "") if own else ""
    paths = [str(BENCH), *(os.path.abspath(p) for p in inherited.split(os.pathsep) if p)]
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "RAYON_NUM_THREADS": count,
        "TOKENIZERS_PARALLELISM": "true",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compilers that outlives its use
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONWARNINGS": "ignore",
    }


class Child:
    """A running `python -m MODULE ARGUMENTS` whose stdout is lines."""

    def __init__(
        self, python: Path, module: str, arguments: list[str], env: dict[str, str], log: Path
    ) -> None:
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", module, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd=BENCH,
                text=True,
                start_new_session=True,  # so that what it starts can be ended with it
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._input: IO[str] = self._process.stdin
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def __enter__(self) -> "Child":
        """Return the child itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.end()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line)
        self._lines.put(None)

    def line(self, timeout: float) -> str:
        """Return the next line of output; raise ChildError when none comes."""
        try:
            line = self._lines.get(timeout=timeout)
        except queue.Empty:
            raise ChildError(f"no answer within {timeout:.0f} s") from None
        if line is None:
            code = self._process.wait(GRACE)
            raise ChildError(f"ended with status {code}: {self._last_words()}")
        return line

    def ask(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Send a request and return its answer."""
        try:
            self._input.write(json.dumps(request) + "\n")
            self._input.flush()
        except OSError:
            pass  # it is gone: reading says how
        answer: dict[str, Any] = json.loads(self.line(timeout))
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    def peak_mb(self) -> float | None:
        """Return the most memory it has had resident, in MB; None where the system does not say."""
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        found = [line for line in status.splitlines() if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) / 1024 if found else None

    def end(self) -> None:
        """Close its input, and kill it and what it started if that does not end it."""
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(GRACE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return (lines or ["it said nothing"])[-1][:300]
