"""A run that is cut off goes on as if it had not been, to the last digit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from opengte.errors import CheckpointError, InputError
from opengte.train.reporting.training_log import STEPS, read_table
from opengte.train.saving import checkpoints
from tests.support.train_run import RandomBatches, run
from tests.train.test_invariance import ROOT, launch


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in read_table(folder / STEPS)]


def rows(folder: Path) -> list[str]:
    return [row["rows"] for row in read_table(folder / STEPS)]


def same_run(a: Path, b: Path) -> None:
    assert (a / STEPS).read_text() == (b / STEPS).read_text()
    last = list(checkpoints.list_checkpoints(a).values())[-1].name
    for name in ("model.safetensors", checkpoints.STATE):
        assert (a / last / name).read_bytes() == (b / last / name).read_bytes(), name


@pytest.mark.parametrize("step", [1, 4, 6])
def test_a_resumed_run_is_bit_for_bit_the_same(step: int, tmp_path: Path) -> None:
    run(tmp_path / "whole")
    crash = Crash(step)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "cut", make_batches=crash.make)
    result, _ = run(tmp_path / "cut", resume=True)
    assert result.step == 12
    same_run(tmp_path / "whole", tmp_path / "cut")


class Crash:
    """Batches that end in an error at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def make(self, start: int, rank: int, world: int) -> Any:
        class Ends(RandomBatches):
            def at(inner, step: int) -> Any:
                if step == self.step:
                    raise RuntimeError("power cut")
                return super().at(step)

        return Ends(start, rank, world)


@pytest.mark.slow
def test_killed_twenty_times_in_and_out_of_a_checkpoint(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    run(whole, steps=40, save_every=1)
    command = [
        sys.executable,
        "-m",
        "tests.support.train_kill",
        str(tmp_path / "killed"),
        "20",
        "0.0005",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    killed, inside = map(int, done.stdout.split())
    assert killed == 20 and 2 <= inside < 20
    same_run(whole, tmp_path / "killed")
    assert not [*(tmp_path / "killed").glob(".*-*")]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_another_number_of_processes_goes_on_with_the_same_batches(
    parallel: str, tmp_path: Path
) -> None:
    # what is dropped depends on the process; small steps, that Adam does not amplify rounding
    options = ("dropout=0.0", "learning_rate=1e-3", f"parallel='{parallel}'")
    run(tmp_path / "one", dropout=0.0, learning_rate=1e-3)
    folder = tmp_path / "many"
    for size, last in ((2, 6), (4, 9), (1, 12)):
        stop = () if last == 12 else (f"stop={last}",)
        launch(size, "tests.support.train_run", str(folder), "resume=True", *options, *stop)
        assert list(checkpoints.list_checkpoints(folder))[-1] == last
    assert rows(folder) == rows(tmp_path / "one")
    assert losses(folder) == pytest.approx(losses(tmp_path / "one"), rel=1e-6, abs=1e-6)


def test_ctrl_c_finishes_the_step_saves_and_says_so(tmp_path: Path) -> None:
    def interrupt(step: int, _: Any) -> dict[str, float]:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return {"quality": 1.0}

    result, _ = run(tmp_path, evaluate=interrupt, evaluate_every=1)
    assert result.interrupted and result.step in (5, 6)
    assert list(checkpoints.list_checkpoints(tmp_path))[-1] == result.step
    again, _ = run(tmp_path, resume=True, evaluate=interrupt, evaluate_every=1)
    assert not again.interrupted and again.step == 12


def test_another_configuration_is_refused_by_field(tmp_path: Path) -> None:
    run(tmp_path, steps=4, identity={"data": "abc"})
    with pytest.raises(InputError) as error:
        run(tmp_path, steps=5, learning_rate=0.5, identity={"data": "xyz"}, resume=True)
    text = str(error.value)
    assert "steps was 4, now 5" in text
    assert "learning_rate was 0.01, now 0.5" in text
    assert "data was abc, now xyz" in text
    assert "seed" not in text


def test_how_it_is_computed_may_change(tmp_path: Path) -> None:
    run(tmp_path, steps=4)
    result, _ = run(tmp_path, steps=4, resume=True, chunk_tokens=20, log_every=1, memory=4.0)
    assert result.step == 4


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    run(tmp_path, steps=3)
    with pytest.raises(InputError, match="has a run of 3 steps: resume it with resume=True"):
        run(tmp_path, steps=3)


def test_resuming_nothing_starts(tmp_path: Path) -> None:
    assert run(tmp_path / "new", steps=2, resume=True)[0].step == 2


def test_what_was_never_finished_is_not_a_checkpoint(tmp_path: Path) -> None:
    run(tmp_path, steps=3)
    (tmp_path / ".partial-step-00000009").mkdir()
    (tmp_path / "step-00000009").mkdir()  # no checkpoints.json: never renamed by us
    assert list(checkpoints.list_checkpoints(tmp_path)) == [3]
    run(tmp_path, steps=3, resume=True)
    assert not (tmp_path / ".partial-step-00000009").exists()


@pytest.mark.parametrize("damage", ["{", '{"version": 99}', ""])
def test_a_damaged_state_is_an_error_that_names_the_file(damage: str, tmp_path: Path) -> None:
    run(tmp_path, steps=3)
    (tmp_path / "step-00000003" / checkpoints.STATE).write_text(damage)
    with pytest.raises(CheckpointError, match=r"step-00000003/state\.json` cannot be read"):
        run(tmp_path, steps=3, resume=True)


def test_keeps_the_last_checkpoints_and_the_best(tmp_path: Path) -> None:
    def evaluate(step: int, _: Any) -> dict[str, float]:
        return {"quality": -abs(step - 4)}

    result, _ = run(tmp_path, evaluate=evaluate, evaluate_every=2, save_every=1, keep=2)
    assert result.best_step == 4
    assert list(checkpoints.list_checkpoints(tmp_path)) == [4, 11, 12]


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.support.train_run",
        str(tmp_path),
        "steps=100000",
        "slow=0.05",
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL)
    while not checkpoints.list_checkpoints(tmp_path):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    found = list(checkpoints.list_checkpoints(tmp_path))
    assert found and len(read_table(tmp_path / STEPS)) == found[-1]
