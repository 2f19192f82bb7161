"""`gte embed --output` after a crash: the same command goes on, and the bytes are the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import opengte
from opengte.cli import main
from tests.support.fake_models import FakeEncoder
from tests.support.installed import needs

needs("pyarrow")

SUFFIXES = [".jsonl", ".npy", ".parquet"]


class Crash(BaseException):
    """Stands for a power cut: nothing in the product may catch it."""


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(opengte, "Encoder", FakeEncoder, raising=False)
    monkeypatch.delenv("GTE_DEBUG", raising=False)
    monkeypatch.delenv("GTE_MODEL", raising=False)


@pytest.fixture
def source(tmp_path):
    """A file of 20 rows, of which two are bad and one is too long."""
    rows = [json.dumps({"text": f"text number {n}", "id": f"row{n}"}) for n in range(20)]
    rows[3], rows[9], rows[15] = "{}", json.dumps("word " * 50), json.dumps("POISON")
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(rows))
    return path


def arguments(source: Path, output: Path, *more: str) -> list[str]:
    return ["embed", "--input", str(source), "--output", str(output), "--window", "4", *more]


def embed(source: Path, output: Path, *more: str) -> Result:
    return CliRunner().invoke(main, arguments(source, output, *more))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def whole_run(source: Path, folder: Path, suffix: str) -> dict[str, bytes]:
    folder.mkdir()
    result = embed(source, folder / f"out{suffix}")
    assert result.stderr.endswith(
        "embedded 18 texts, 101 tokens (fake, fp32); 1 truncated; 2 failed\n"
    )
    names = {f"out{suffix}"} | ({"out.ids.jsonl"} if suffix == ".npy" else set())
    assert set(files(folder)) == names
    return files(folder)


def crash_at(monkeypatch, step: int) -> None:
    """Make the step-th call that changes the disk for good fail, before it does anything."""
    calls = 0

    def counted(original):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == step:
                raise Crash
            return original(*args, **kwargs)

        return call

    for owner, name in [(os, "fsync"), (os, "replace"), (Path, "unlink"), (Path, "write_bytes")]:
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


def crashes(run: Callable[..., object], *arguments: object, **options: object) -> bool:
    try:
        run(*arguments, **options)
    except Crash:
        return True
    return False


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_crash_at_any_step_changes_nothing_in_the_end(tmp_path, source, suffix):
    wanted = whole_run(source, tmp_path / "whole", suffix)
    step = finished = 0
    while not finished:
        step += 1
        folder = tmp_path / f"crash{step}"
        folder.mkdir()
        output = folder / f"out{suffix}"
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, step)
            finished = not crashes(embed, source, output)
        result = embed(source, output)
        assert result.exit_code == 1, result.output  # for the two bad rows
        assert result.stderr.endswith("18 texts, 101 tokens (fake, fp32); 1 truncated; 2 failed\n")
        assert files(folder) == wanted, f"crash at step {step}"
    assert step > 12


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_kill_nine_at_several_points(tmp_path, source, suffix):
    wanted = whole_run(source, tmp_path / "whole", suffix)
    folder = tmp_path / "killed"
    folder.mkdir()
    command = [sys.executable, "-m", "tests.support.fake_models"]
    command += arguments(source, folder / f"out{suffix}")
    root = Path(__file__).parents[2]
    paths = {"PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])}
    slow = {**os.environ, **paths, "FAKE_DELAY": "0.1"}
    for journal_lines in (1, 3, 4):
        with subprocess.Popen(command, env=slow, stderr=subprocess.DEVNULL) as process:
            wait_for_lines(folder / f"out{suffix}.journal", journal_lines, process)
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert not (folder / f"out{suffix}").exists()
    done = subprocess.run(command, env={**slow, "FAKE_DELAY": "0"}, capture_output=True, text=True)
    assert "continuing after row" in done.stderr
    assert done.returncode == 1
    assert files(folder) == wanted


def wait_for_lines(path: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_bytes().count(b"\n") > count):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "the run does not get on"
        time.sleep(0.005)


@pytest.fixture
def killed(tmp_path, source):
    """An output whose run was cut off after two windows."""
    output = tmp_path / "out.jsonl"
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 7)
        assert crashes(embed, source, output)
    assert (tmp_path / "out.jsonl.part").exists()
    return output


def test_continuing_says_where(source, killed):
    assert "continuing after row 8 (1 failed)" in embed(source, killed).stderr


@pytest.mark.parametrize(
    ("more", "change"),
    [
        (["--model", "other"], 'model was "fake", is now "other"'),
        (["--role", "query"], 'role was null, is now "query"'),
        (["--dimensions", "4"], "dimensions was null, is now 4"),
        (["--max-length", "9"], "max_length was 16, is now 9"),
        (["--precision", "bf16"], 'precision was "fp32", is now "bf16"'),
        (["--window", "5"], "window was 4, is now 5"),
        (["--outputs", "sparse"], 'outputs[0] was "dense", is now "sparse"'),
        (["--text-field", "body"], 'input.text_field was "text", is now "body"'),
    ],
)
def test_another_run_may_not_continue_it(source, killed, more, change):
    before = files(killed.parent)
    result = embed(source, killed, *more)
    assert result.exit_code == 1
    assert change in result.stderr
    assert "belongs to another run" in result.stderr
    assert "--restart to begin again" in result.stderr
    assert files(killed.parent) == before


def test_changed_input_may_not_continue(source, killed):
    source.write_bytes(source.read_bytes() + b'\n"more"')
    result = embed(source, killed)
    assert result.exit_code == 1
    assert "input.size was " in result.stderr
    assert embed(source, killed, "--restart").exit_code == 1  # for the two bad rows
    assert killed.read_text().count("\n") == 19
    assert not list(killed.parent.glob("*.part")) + list(killed.parent.glob("*.journal"))


def test_changed_input_of_the_same_size_and_time_may_not_continue(source, killed):
    times = source.stat().st_atime_ns, source.stat().st_mtime_ns
    source.write_bytes(source.read_bytes().replace(b"text number 0", b"text number X"))
    os.utime(source, ns=times)
    assert "belongs to another run" in embed(source, killed).stderr


def test_whatever_was_written_after_the_last_window_is_cut_off(tmp_path, source, killed):
    wanted = whole_run(source, tmp_path / "whole", ".jsonl")
    with killed.with_name("out.jsonl.part").open("ab") as file:
        file.write(b"x" * 100_000)
    assert "continuing after row 8" in embed(source, killed).stderr
    assert killed.read_bytes() == wanted["out.jsonl"]


def test_restart_begins_again(tmp_path, source, killed):
    wanted = whole_run(source, tmp_path / "whole", ".jsonl")
    result = embed(source, killed, "--restart")
    assert "continuing" not in result.stderr
    assert killed.read_bytes() == wanted["out.jsonl"]


def test_a_part_file_cut_short_begins_again(tmp_path, source, killed):
    wanted = whole_run(source, tmp_path / "whole", ".jsonl")
    killed.with_name("out.jsonl.part").write_bytes(b"{")
    assert "part files are missing or cut short: starting again" in embed(source, killed).stderr
    assert killed.read_bytes() == wanted["out.jsonl"]


def test_a_torn_last_line_of_the_journal_does_not_count(tmp_path, source, killed):
    wanted = whole_run(source, tmp_path / "whole", ".jsonl")
    with killed.with_name("out.jsonl.journal").open("ab") as file:
        file.write(b'{"seen": 12, "wri')
    assert "continuing after row 8" in embed(source, killed).stderr
    assert killed.read_bytes() == wanted["out.jsonl"]


def test_a_file_that_is_no_journal_is_not_touched(tmp_path, source):
    journal = tmp_path / "out.jsonl.journal"
    journal.write_text("dear diary\n")
    result = embed(source, tmp_path / "out.jsonl")
    assert "is not the journal of a run" in result.stderr
    assert result.exit_code == 1
    assert journal.read_text() == "dear diary\n"


def test_two_runs_may_not_write_one_output(source, killed):
    import fcntl

    with killed.with_name("out.jsonl.journal").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = embed(source, killed)
    assert result.exit_code == 1
    assert "is in use: another run is writing this output" in result.stderr


def test_stdin_cannot_be_continued_and_says_so(tmp_path):
    output, command = tmp_path / "out.npy", ["embed", "-", "--output", str(tmp_path / "out.npy")]
    with pytest.MonkeyPatch.context() as patch:
        crash_at(patch, 6)
        assert crashes(CliRunner().invoke, main, command, input=b"one\n")
    result = CliRunner().invoke(main, command, input=b"one\ntwo\n")
    assert "standard input cannot be continued: starting again" in result.stderr
    assert output.stat().st_size == 128 + 2 * 8 * 4


def test_an_interrupted_run_keeps_what_it_has(monkeypatch, tmp_path, source):
    calls = 0
    original = FakeEncoder.embed

    def interrupted(self, texts, **options):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(self, texts, **options)

    monkeypatch.setattr(FakeEncoder, "embed", interrupted)
    result = embed(source, tmp_path / "out.jsonl")
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted\nhint: the same command continues from here\n")
    assert "continuing after row 4" in embed(source, tmp_path / "out.jsonl").stderr


def test_a_full_disk_is_an_error_and_the_run_continues(monkeypatch, tmp_path, source):
    wanted = whole_run(source, tmp_path / "whole", ".jsonl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: full_disk())
        result = embed(source, tmp_path / "out.jsonl")
    assert result.stderr == "error: No space left on device\n"
    assert result.exit_code == 1
    embed(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == wanted["out.jsonl"]


def full_disk() -> None:
    raise OSError(28, "No space left on device")
