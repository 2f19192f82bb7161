"""The structure of the package: direction of imports, size of folders, unique names."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support import layering

ROOT = Path(__file__).parents[1] / "src" / "opengte"

# of each folder, from the top; what stands on one floor never imports each other
FLOORS: dict[str, tuple[tuple[str, ...], ...]] = {
    "": (
        ("cli",),
        ("apps", "integrations", "review"),
        ("serve", "search", "evaluate", "bulk"),
        ("encoder",),
        ("engine", "train"),
        ("reference", "checkpoint", "data"),
        ("adapters",),
        (
            "weights",
            "batching",
            "tokenization",
            "embedding_ops",
            "journal",
            "pages",
            "ranking_metrics",
        ),
        (
            "arch",
            "atomic_files",
            "checkpoint_checks",
            "checkpoint_files",
            "checkpoint_keys",
            "delimited",
            "hub",
            "published_models",
            "svg",
            "text_input",
            "types",
        ),
        ("errors", "process_lock"),
    ),
    "serve": (
        ("runtime",),
        ("console",),
        ("http",),
        ("observability",),
        ("inference", "protocols", "auth"),
        ("config",),
        ("types", "shared_memory"),
    ),
    "data": (
        ("preparation", "sampling", "mining"),
        ("shards",),
        ("reading", "cleaning"),
        ("arrays", "examples"),
    ),
    "train": (
        ("stages",),
        ("loop",),
        ("objectives", "reporting", "saving"),
        ("gradient_cache",),
        ("models", "settings"),
        ("distributed", "losses", "optim"),
    ),
    "search": (
        ("web",),
        ("kb",),
        ("maintenance",),
        ("calibration", "analysis"),
        ("handle",),
        ("index",),
        ("retrieval", "adhoc"),
        ("ingest", "access", "names", "filter_check"),
        ("stores",),
        ("roots",),
        ("parse",),
        ("filters", "minhash", "model_identity", "segmentation"),
    ),
}
MOST_MODULES = 20
GROWING = ("arch",)  # one file per architecture
# where modules share an interface, so that each defines the same names
PLUG_INS = (
    "arch",
    "cli",
    "integrations",
    "search/parse",
    "search/stores",
    "serve/protocols",
    "train/losses",
    "train/objectives",
    "train/stages",
)
MOST_HOMES = 3  # modules that may define a public function of one name
# a plan's class names are in fingerprints of models, those of wire formats in the OpenAPI document;
# `opengte.bulk.ray.Embedder` and `opengte.bulk.daft.Provider` are what users of these engines write
FIXED_CLASSES = {"Embedding", "Embedder", "Provider"}
TORCH = ("reference", "train")
ADAPTERS: dict[str, tuple[str, ...]] = {
    "torch": (*TORCH, "engine/torch.py"),
    "pyarrow": (
        "bulk",
        "cli",
        "data/reading/arrow.py",
        "search/stores",
        "search/parse",
        "search/maintenance/parquet.py",
    ),
    "lancedb": ("bulk/shards/inputs.py", "search/stores"),
    "daft": ("bulk/daft.py",),
    "fsspec": ("bulk/shards/places.py",),
    "obstore": ("bulk/shards/places.py",),
    "ray": ("bulk/ray.py", "bulk/shards/ray_pool.py", "serve/runtime/ray_app.py"),
    "opentelemetry": ("serve/observability/tracing.py",),
    "peft": ("train/models/lora.py",),
    "msgspec": ("serve", "search/web"),
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
    "jinja2": ("serve/console",),
    "authlib": ("serve/console",),
    "itsdangerous": ("serve/console",),
    "psycopg": ("search/stores", "serve/console/database.py"),
    "snowballstemmer": ("search/stores",),
    "qdrant_client": ("search/stores",),
    "qdrant_edge": ("search/stores",),
    "ir_measures": ("evaluate",),
    "transformers": (),
    "sentence_transformers": (),
}


GRAPH = layering.import_graph(ROOT)


def homes(names: Mapping[str, set[str]], most: int) -> dict[str, set[str]]:
    """Return the names defined in more than `most` modules; a folder of plug-ins counts once."""

    def home(module: str) -> str:
        return next((folder for folder in PLUG_INS if module.startswith(f"{folder}/")), module)

    return {
        name: modules
        for name, modules in names.items()
        if len({home(module) for module in modules}) > most
    }


@pytest.mark.parametrize("folder", FLOORS)
def test_imports_point_downwards(folder: str) -> None:
    assert not layering.not_downwards(GRAPH, FLOORS[folder], folder)


def test_no_circle_of_imports() -> None:
    assert not layering.circle(GRAPH)


def test_no_folder_is_crowded() -> None:
    assert not layering.crowded(ROOT, MOST_MODULES, GROWING)


def test_public_classes_have_names_of_their_own() -> None:
    shared = homes(layering.public_names(ROOT)[0], most=1)
    assert {name: shared[name] for name in shared if name not in FIXED_CLASSES} == {}


def test_few_modules_define_public_functions_of_one_name() -> None:
    assert homes(layering.public_names(ROOT)[1], MOST_HOMES) == {}


def test_only_adapters_import_heavy_neighbours() -> None:
    strangers = [
        f"{place} imports {name}"
        for place, path in layering.modules(ROOT).items()
        for name in layering.imports(path)
        if not place.startswith(ADAPTERS.get(name.split(".")[0], ("",)))
    ]
    assert not strangers


def test_only_weights_opens_weight_files() -> None:
    suffixes = ("safetensors", ".bin", ".pt")
    readers = ("weights.py", "hub/", "checkpoint/", "reference/", "arch/")
    for name, path in layering.modules(ROOT).items():
        if name.startswith(readers):
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


def plant(root: Path, files: Mapping[str, str]) -> Path:
    """Write a package `made` of these files, by path."""
    for name, text in files.items():
        (root / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "made" / name).write_text(text, encoding="utf-8")
    return root / "made"


def test_planted_circles_are_found(tmp_path: Path) -> None:
    files = {
        "__init__.py": "",
        "a.py": "from made.low.b import thing\n",
        "low/__init__.py": "",
        "low/b.py": "def thing():\n    from made import c\n    return c\n",
        "c.py": "if x:\n    pass\nelse:\n    import made.a\n",
        "d.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from made import e\n",
        "e.py": "from made.d import TYPE_CHECKING\n",
    }
    graph = layering.import_graph(plant(tmp_path, files))
    assert graph["a.py"] == {"low/b.py"}
    assert graph["d.py"] == set()
    circle = layering.circle(graph)
    assert set(circle) == {"a.py", "low/b.py", "c.py"}
    assert len(circle) == 4
    assert not layering.circle({**graph, "c.py": set()})


def test_a_module_that_imports_itself_is_a_circle() -> None:
    assert layering.circle({"a.py": {"a.py"}}) == ["a.py", "a.py"]


def test_the_shortest_circle_is_reported() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"c"}}
    assert layering.circle(graph) in (["c", "d", "c"], ["d", "c", "d"])


@pytest.mark.parametrize("count", [20, 21])
def test_a_planted_21st_module_is_found(tmp_path: Path, count: int) -> None:
    names = [f"{folder}/m{number}.py" for folder in ("some", "arch") for number in range(count)]
    root = plant(tmp_path, dict.fromkeys(["__init__.py", "some/__init__.py", *names], ""))
    expected = {"some": 21} if count == 21 else {}
    assert layering.crowded(root, MOST_MODULES, GROWING) == expected


def test_planted_upward_and_sideways_imports_are_found(tmp_path: Path) -> None:
    files = {
        "high.py": "from made.left import x\nfrom made import __version__\n",
        "left/__init__.py": "x = 1\n",
        "left/own.py": "import made.left\n",
        "left/up.py": "import made.high\n",
        "right.py": "from made.left.own import y\n",
        "inner/high.py": "",
        "inner/low.py": "from made.inner.high import z\n",
    }
    graph = layering.import_graph(plant(tmp_path, files))
    floors = (("high",), ("left", "right"), ("inner",))
    assert layering.not_downwards(graph, floors) == {
        ("left/up.py", "high.py"),
        ("right.py", "left/own.py"),
    }
    inside = (("high",), ("low",))
    assert layering.not_downwards(graph, inside, "inner") == {("inner/low.py", "inner/high.py")}
    with pytest.raises(AssertionError, match=r"on no floor: add `inner`"):
        layering.not_downwards(graph, floors[:2])


def test_planted_names_are_found(tmp_path: Path) -> None:
    same = "class Same: ...\nclass _Own: ...\ndef same(): ...\nasync def other(): ...\n"
    names = ["a.py", "b.py", "arch/c.py", "arch/d.py"]
    classes, functions = layering.public_names(plant(tmp_path, dict.fromkeys(names, same)))
    assert classes == {"Same": set(names)}
    assert functions == {"same": set(names), "other": set(names)}
    assert homes(classes, most=1).keys() == {"Same"}
    assert not homes(functions, most=3), "the folder `arch` counts once"
    assert homes(functions, most=2).keys() == {"same", "other"}
