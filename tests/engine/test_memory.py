"""How much memory is free, and how large a batch may be."""

import pytest

from opengte.engine.memory import free_bytes, max_batch_tokens
from tests.support import native_plans


def test_free_memory_is_the_least_of_machine_and_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:  2000 kB\n")
    root = tmp_path / "cgroup"
    assert free_bytes(meminfo, root) == 2000 * 1024
    (root / "memory").mkdir(parents=True)
    (root / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("5\n")
    assert free_bytes(meminfo, root) == 2000 * 1024
    (root / "memory" / "memory.limit_in_bytes").write_text("1000000\n")
    (root / "memory" / "memory.usage_in_bytes").write_text("900000\n")
    (root / "memory" / "memory.stat").write_text("cache 1\ntotal_inactive_file 400000\n")
    assert free_bytes(meminfo, root) == 500_000
    (root / "memory.max").write_text("max\n")
    (root / "memory.current").write_text("1\n")
    assert free_bytes(meminfo, root) == 500_000
    (root / "memory.max").write_text("300000\n")
    (root / "memory.current").write_text("100000\n")
    (root / "memory.stat").write_text("inactive_file 50000\n")
    assert free_bytes(meminfo, root) == 250_000
    assert free_bytes(tmp_path / "none", tmp_path / "none") is None


def test_batches_fit_the_free_memory():
    plan = native_plans.bert()
    assert max_batch_tokens(plan, 16384, None) == 16384
    assert max_batch_tokens(plan, 16384, 1 << 40) == 16384
    little, less = max_batch_tokens(plan, 16384, 1 << 24), max_batch_tokens(plan, 16384, 1 << 23)
    assert 1 < less < little < 16384 and little == pytest.approx(2 * less, abs=2)
    assert max_batch_tokens(plan, 16384, 0) == 1
