"""The folder of prepared weights stays within its limit, and says what in it is damaged."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from opengte import checkpoint
from opengte.cli import main
from opengte.engine import native, native_extension, prepared_cache
from opengte.errors import InputError
from tests.support.installed import needs

if not native_extension.available():
    pytest.skip("the compiled CPU engine is not installed", allow_module_level=True)
needs("torch")

from tests.parity.families import FAMILIES
from tests.support.native_plans import batch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES["bert"](path)
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OPENGTE_CACHE", str(tmp_path))
    monkeypatch.delenv(prepared_cache.VARIABLE, raising=False)
    return tmp_path / "prepared"


def load(folder: Path, precision: str) -> native.NativeEngine:
    found = checkpoint.read_checkpoint(folder)
    return native.load_native_engine(found, precision=precision, threads=1)


def used_long_ago(seconds: int) -> None:
    """Make what is there look older, so that the order does not follow the clock's steps."""
    for file in prepared_cache.prepared_files(prepared_cache.prepared_folder()):
        os.utime(file.path, (file.used - seconds, file.used - seconds))


def precisions() -> list[str]:
    return [
        file.precision for file in prepared_cache.prepared_files(prepared_cache.prepared_folder())
    ]


def gte(*args: str) -> tuple[int, list[dict[str, object]]]:
    result = CliRunner().invoke(main, ["cache", *args, "--json"])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def test_the_file_that_was_not_used_for_longest_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for precision in ("fp32", "bf16"):
        used_long_ago(100)
        first = load(folder, precision)
    used_long_ago(100)
    load(folder, "fp32")  # used again
    assert precisions() == ["fp32", "bf16"]
    sizes = {file["precision"]: file["size"] for file in gte("list")[1]}
    monkeypatch.setenv(prepared_cache.VARIABLE, str(sizes["fp32"] + sizes["bf16"]))
    used_long_ago(100)
    load(folder, "int8")
    assert precisions() == ["int8", "fp32"]
    monkeypatch.setenv(prepared_cache.VARIABLE, "1")  # what was just written stays
    load(folder, "bf16")
    assert precisions() == ["bf16"]
    # what is mapped can still be used
    vectors = first.run(batch((3, 4)), frozenset({"dense"})).dense
    assert vectors is not None and np.isfinite(vectors).all()


def test_older_formats_and_unfinished_files_go(folder: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    old = "0" * 32 + f"-fp32-avx2-{prepared_cache_format() - 1}"
    later = "0" * 32 + f"-fp32-avx2-{prepared_cache_format() + 1}"
    names = [f"{old}.weights", f"{old}.precision.json", f"{later}.weights", "notes.txt"]
    names += [".preparing-dead", ".preparing-alive"]
    for name in names:
        (cache / name).write_bytes(b"x")
    dead = time.time() - 2 * prepared_cache.ABANDONED
    os.utime(cache / ".preparing-dead", (dead, dead))
    load(folder, "fp32")
    left = {path.name for path in cache.iterdir()} & set(names)
    assert left == {f"{later}.weights", "notes.txt", ".preparing-alive"}


def prepared_cache_format() -> int:
    from opengte.engine.native_weights import FORMAT

    return FORMAT


def test_the_command_lists_prunes_and_verifies(folder: Path, cache: Path) -> None:
    assert gte("list") == (0, []) == gte("verify") == gte("prune")
    for precision in ("fp32", "int8"):
        used_long_ago(100)
        load(folder, precision)
    code, rows = gte("verify")
    assert code == 0 and [row["intact"] for row in rows] == [True, True]
    assert {row["model"] for row in rows} == {str(folder)}
    damaged = Path(str(rows[1]["path"]))
    raw = bytearray(damaged.read_bytes())
    raw[len(raw) // 2] ^= 4
    damaged.write_bytes(raw)
    used_long_ago(0)
    assert gte("verify")[0] == 1
    assert precisions() == ["int8"] and gte("verify")[0] == 0
    assert gte("prune")[1] == []
    assert [row["precision"] for row in gte("prune", "--to", "0")[1]] == ["int8"]
    assert precisions() == []
    assert CliRunner().invoke(main, ["cache", "list"]).exit_code == 0


def test_a_limit_that_is_no_size_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(main, ["cache", "prune", "--to", "much"])
    assert result.exit_code == 2 and "'much' is not a size" in result.stderr
    monkeypatch.setenv(prepared_cache.VARIABLE, "much")
    with pytest.raises(InputError, match="OPENGTE_CACHE_LIMIT is 'much', expected a size"):
        prepared_cache.size_limit()
