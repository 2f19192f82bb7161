"""The loop: what it learns, writes, refuses and survives."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from opengte.errors import EngineError, InputError, MissingExtraError
from opengte.train import optim
from opengte.train.distributed import World
from opengte.train.objectives import Contrastive
from opengte.train.optim import learning_rate
from opengte.train.reporting import training_log
from opengte.train.settings import TrainingSettings
from tests.support import train_run
from tests.support.train_run import run
from tests.train.test_invariance import launch


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def test_the_loss_falls_and_everything_is_written_down(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "opengte.train")
    result, _ = run(tmp_path, make_batches=Same.make, steps=16, evaluate=lambda *_: {"q": 0.5})
    steps = table(tmp_path)
    assert [int(row["step"]) for row in steps] == list(range(1, 17))
    assert float(steps[-1]["loss"]) < 0.7 * float(steps[0]["loss"])
    lines = training_log.read_table(tmp_path / training_log.LOG)
    assert len(lines) == 8
    for row in lines:
        values = {name: float(value) for name, value in row.items()}
        assert values["padding"] == 0
        assert values["tokens_per_second"] > values["pairs_per_second"] > 0
        assert 0 <= values["loader_wait"] < 100 and values["memory"] > 0.05 and values["mfu"] > 0
    assert "pairs/s" in caplog.text and "loader" in caplog.text and "mfu" in caplog.text
    assert result.metrics == {"q": 0.5}
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Loss, toy" in page and "<script" not in page and "http" not in page
    assert page.count("<svg") == 9


def table(folder: Path) -> list[dict[str, str]]:
    return training_log.read_table(folder / training_log.STEPS)


class Same(train_run.RandomBatches):
    def at(self, step: int) -> Any:
        return super().at(0)

    @classmethod
    def make(cls, start: int, rank: int, world: int) -> Any:
        return cls(start, rank, world)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("linear", [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("constant", [0.5, *[1.0] * 9]),
        ("wsd", [0.5, *[1.0] * 5, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, *((1 + math.cos(math.pi * k / 8)) / 2 for k in range(8))]),
    ],
)
def test_learning_rates(schedule: Any, values: list[float]) -> None:
    found = [
        learning_rate(s, steps=10, peak=1.0, warmup=0.2, schedule=schedule, decay=0.4)
        for s in range(10)
    ]
    assert found == pytest.approx(values)
    lowest = learning_rate(
        9, steps=10, peak=1.0, warmup=0.0, schedule=schedule, decay=0.4, final=0.5
    )
    assert lowest >= 0.5


def test_vectors_do_not_decay() -> None:
    module = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "n": torch.nn.LayerNorm(2)})
    frozen = torch.nn.Linear(2, 2).requires_grad_(False)
    module["f"] = frozen
    adamw = optim.adamw(module, weight_decay=0.1, betas=(0.9, 0.99), epsilon=1e-8)
    first, second = adamw.param_groups
    assert first["weight_decay"] == 0.1 and [p.dim() for p in first["params"]] == [2]
    assert second["weight_decay"] == 0.0 and len(second["params"]) == 3


def test_gradients_are_clipped_to_the_norm(tmp_path: Path) -> None:
    found = []
    for clip in (None, 1e-3):
        _, trainable = run(
            tmp_path / str(clip),
            steps=1,
            clip=clip,
            ema=None,
            warmup=0.0,
            weight_decay=0.0,
            epsilon=1.0,
        )
        found.append([p.detach().clone() for p in trainable.parameters()])
    _, start = run(tmp_path / "still", steps=1, learning_rate=1e-30, ema=None, weight_decay=0.0)
    norm = float(table(tmp_path / "None")[0]["gradient_norm"])
    assert norm > 1
    moved = [
        sum((a - b).square().sum() for a, b in zip(x, start.parameters(), strict=True))
        for x in found
    ]
    assert moved[1].sqrt() <= 1.01e-2 * 1e-3 < moved[0].sqrt()


def test_the_average_is_what_is_evaluated_and_left(tmp_path: Path) -> None:
    seen: list[list[Tensor]] = []

    def evaluate(step: int, trainable: Any) -> dict[str, float]:
        assert not trainable.training
        seen.append([p.detach().clone() for p in trainable.parameters()])
        return {"q": 1.0}

    _, trainable = run(tmp_path / "a", evaluate=evaluate, ema=0.9)
    for one, other in zip(seen[-1], trainable.parameters(), strict=True):
        assert torch.equal(one, other)
    _, plain = run(tmp_path / "b", ema=None)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(plain.parameters(), trainable.parameters(), strict=True)
    )


def poison(monkeypatch: pytest.MonkeyPatch, steps: tuple[int, ...], factor: float) -> None:
    step = Contrastive.step

    def spoiled(self: Any, passes: Any, batch: Any, seed: tuple[int, ...]) -> Any:
        share = step(self, passes, batch, seed)
        if seed[1] in steps:
            share.loss.mul_(factor)
        return share

    monkeypatch.setattr(Contrastive, "step", spoiled)


def test_a_loss_that_is_not_finite_stops_with_the_weights_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, (4,), math.nan)
    with pytest.raises(EngineError) as error:
        run(tmp_path, save_every=100)
    text = str(error.value)
    assert "training stopped before step 5: the loss is nan" in text
    assert "source 'toy', 8 rows" in text and "toy.jsonl:401" in text
    assert "not finite in process 0" in text
    monkeypatch.undo()
    assert run(tmp_path, resume=True)[0].step == 12
    run(tmp_path / "whole")
    assert table(tmp_path) == table(tmp_path / "whole")


def test_a_spike_is_skipped_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    poison(monkeypatch, (10,), 50.0)
    result, _ = run(tmp_path, on_trouble="skip", spike=5.0)
    assert result.skipped == 1 and result.step == 12
    assert [row["step"] for row in table(tmp_path) if row["skipped"] == "True"] == ["11"]
    assert "step 11 is skipped: the loss is" in caplog.text and "was usual" in caplog.text


def test_nothing_but_trouble_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, tuple(range(100)), math.inf)
    with pytest.raises(EngineError, match="training stopped before step 11"):
        run(tmp_path, steps=30, on_trouble="skip")


def test_bfloat16_learns_too_on_float32_weights(tmp_path: Path) -> None:
    _, trainable = run(tmp_path, make_batches=Same.make, steps=16, precision="bf16")
    assert all(p.dtype == torch.float32 for p in trainable.parameters())
    steps = table(tmp_path)
    assert float(steps[-1]["loss"]) < 0.75 * float(steps[0]["loss"])
    run(tmp_path / "wide", make_batches=Same.make, steps=1)
    first = float(table(tmp_path / "wide")[0]["loss"])
    assert first != float(steps[0]["loss"]) == pytest.approx(first, rel=0.02)


@pytest.mark.slow
def test_bfloat16_shards_learn_as_the_whole_does(tmp_path: Path) -> None:
    options = ("precision='bf16'", "dropout=0.0", "steps=6")
    launch(2, "tests.support.train_run", str(tmp_path / "two"), "parallel='fsdp2'", *options)
    run(tmp_path / "one", dropout=0.0, steps=6)
    one, two = ([float(row["loss"]) for row in table(tmp_path / name)] for name in ("one", "two"))
    assert two[0] != one[0] and two == pytest.approx(one, rel=0.05)


def test_recomputed_layers_give_the_same_run(tmp_path: Path) -> None:
    for name, recompute in (("a", False), ("b", True)):
        run(tmp_path / name, steps=4, recompute=recompute)
    assert table(tmp_path / "a") == table(tmp_path / "b")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler itself
def test_compiled_layers_give_the_same_losses(tmp_path: Path) -> None:
    for name, compiled in (("a", False), ("b", True)):
        run(tmp_path / name, steps=3, compile=compiled, dropout=0.0)
    one, other = ([float(r["loss"]) for r in table(tmp_path / name)] for name in "ab")
    assert one == pytest.approx(other, abs=1e-4)


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"opengte\[train\]"):
        run(tmp_path, tensorboard=True)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("steps", 0, "steps is 0, expected at least 1"),
        ("warmup", 1.5, "warmup is 1.5, expected a share from 0 to 1"),
        ("schedule", "step", "schedule is 'step', expected linear, cosine, wsd or constant"),
        ("precision", "fp8", "precision is 'fp8', expected fp32 or bf16"),
        ("clip", 0.0, "clip is 0.0, expected above 0, or None"),
        ("learning_rate", -1.0, "learning_rate is -1.0, expected above 0"),
        ("betas", (1.0, 0.9), r"betas is \(1.0, 0.9\), expected 0 or more and below 1"),
    ],
)
def test_settings_are_checked(name: str, value: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        TrainingSettings(**({"steps": 5} | {name: value}))


def test_sharding_needs_processes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="parallel is 'fsdp2', which needs processes"):
        run(tmp_path, World(), parallel="fsdp2")
