"""The direction of imports, and what must never be imported where."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "opengte"

# bottom to top; rooms on one floor never import each other
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("arch", "hub", "types", "known"),
    ("weights", "batching", "text", "folding", "pages", "journal"),
    ("reference", "checkpoint", "data"),
    ("engine", "train"),
    ("encoder",),
    ("serve", "search", "evaluate", "bulk", "review"),
    ("apps", "integrations"),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
TORCH = ("reference", "train")
ADAPTERS: dict[str, tuple[str, ...]] = {
    "torch": (*TORCH, "engine/torch.py"),
    "pyarrow": (
        "bulk",
        "cli",
        "data/tables.py",
        "search/stores",
        "search/parse",
        "search/maintenance/parquet.py",
    ),
    "lancedb": ("search/stores",),
    "ray": ("serve/runtime/ray_app.py",),
    "opentelemetry": ("serve/observability/tracing.py",),
    "peft": ("train/lora.py",),
    "msgspec": ("serve",),
    "orjson": ("serve",),
    "prometheus_client": ("serve",),
    "starlette": ("pages.py", "serve", "search/web"),
    "uvicorn": ("serve",),
    "mteb": ("evaluate",),
    "datasets": ("evaluate",),
    "mcp": ("integrations/mcp.py",),
    "mcp_types": ("integrations/mcp.py",),
    "langchain_core": ("integrations/langchain.py",),
    "llama_index": ("integrations/llama_index.py",),
    "haystack": ("integrations/haystack.py",),
    "psycopg": ("search/stores",),
    "snowballstemmer": ("search/stores",),
    "qdrant_client": ("search/stores",),
    "qdrant_edge": ("search/stores",),
    "ir_measures": ("evaluate",),
    "transformers": (),
    "sentence_transformers": (),
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too, type-checking blocks excepted."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "opengte":
            found |= {f"opengte.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            found.add(node.module or "")
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    mine = room(path)
    if mine == "__init__":
        return
    assert mine in LEVEL, f"{path} is in no floor of the house: add `{mine}` to FLOORS"
    for name in imports(path):
        if not name.startswith("opengte."):
            continue
        other = name.split(".")[1]
        if other in ("__version__", mine):
            continue
        assert other in LEVEL, f"{path} imports {name}"
        assert LEVEL[other] < LEVEL[mine], f"{path} ({mine}) imports {name}, which is not below it"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_adapters_import_heavy_neighbours(path: Path) -> None:
    place = path.relative_to(ROOT).as_posix()
    for name in imports(path):
        allowed = ADAPTERS.get(name.split(".")[0])
        if allowed is not None:
            assert place.startswith(allowed), f"{place} imports {name}"


def test_only_weights_opens_weight_files() -> None:
    suffixes = ("safetensors", ".bin", ".pt")
    for path in modules():
        if room(path) in ("weights", "hub", "checkpoint", "reference", "arch"):
            continue
        text = path.read_text(encoding="utf-8")
        assert not any(f'{suffix}"' in text for suffix in suffixes), path


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "huggingface_hub", "tokenizers", "tqdm", "click"}
    assert not loaded_after("import opengte") & heavy


def test_the_facade_loads_no_torch() -> None:
    loaded = loaded_after("from opengte import Encoder, Reranker")
    assert not loaded & {"torch", "huggingface_hub", "transformers"}


def test_exported_members() -> None:
    import opengte

    assert opengte.__all__ == sorted(opengte.__all__, key=lambda name: (name[0] == "_", name))
    for name in opengte.__all__:
        assert getattr(opengte, name) is not None
    with pytest.raises(AttributeError, match="has no attribute `Encodr`"):
        opengte.__getattr__("Encodr")
