"""Free memory, within the limits of a container, and the batch size that fits into it."""

from pathlib import Path

from opengte.arch.plan import Plan

BATCH_SHARE = 0.25  # of the free memory that batches may use
ROOT = Path("/sys/fs/cgroup")
MEMINFO = Path("/proc/meminfo")
UNLIMITED = 1 << 60  # cgroup version 1 writes a number near 2**63 for no limit


def free_bytes(meminfo: Path = MEMINFO, root: Path = ROOT) -> int | None:
    """Return the bytes that this process may still allocate, None if the system does not say."""
    limits = [value for value in (_machine(meminfo), _cgroup(root)) if value is not None]
    return max(0, min(limits)) if limits else None


def _machine(meminfo: Path) -> int | None:
    try:
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _cgroup(root: Path) -> int | None:
    """Return the free bytes of the cgroup (version 2, then 1); its inactive page cache is free."""
    version1 = root / "memory"
    for limit, usage, stat, key in (
        (root / "memory.max", root / "memory.current", root / "memory.stat", "inactive_file"),
        (
            version1 / "memory.limit_in_bytes",
            version1 / "memory.usage_in_bytes",
            version1 / "memory.stat",
            "total_inactive_file",
        ),
    ):
        try:
            allowed = int(limit.read_text())
            used = int(usage.read_text())
        except (OSError, ValueError):  # "max" is no limit
            continue
        if allowed < UNLIMITED:
            return allowed - used + _stat(stat, key)
    return None


def _stat(path: Path, key: str) -> int:
    try:
        for line in path.read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == key:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0


def bytes_per_token(plan: Plan) -> int:
    """Estimate the memory of a batch per token, in float32, at the widest point of a layer."""
    widest = 0
    for layer in plan.layers:
        attention, ffn = layer.attention, layer.ffn
        heads = attention.heads + 2 * attention.kv_heads
        widest = max(widest, heads * attention.head_dim + ffn.inner * (2 if ffn.gated else 1))
    return 4 * (4 * plan.width + widest)


def max_batch_tokens(plan: Plan, limit: int, free: int | None) -> int:
    """Return how many tokens of a batch fit into `free` bytes of memory, at most `limit`."""
    if free is None:
        return limit
    return max(1, min(limit, int(free * BATCH_SHARE) // bytes_per_token(plan)))
