"""What is compared: the engines, the shapes, and the figures to reach. Nothing heavy is imported.

Ids of engines are LIBRARY-PRECISION; each has a worker in `cpu_peers/LIBRARY.py`.
"""

from dataclasses import dataclass

PINS = {  # installed in this order, each a step of its own: one that fails takes no other with it
    "sentence-transformers": ("sentence-transformers==6.2.0", "transformers==5.23.0"),
    "onnxruntime": ("onnxruntime==1.31.1", "onnx==1.23.2", "onnxscript==0.7.2"),
    "openvino": ("openvino==2026.4.1", "nncf==3.4.0"),
    "zentorch": ("zentorch==2.13.0.2",),
    "ctranslate2": ("ctranslate2==4.8.5",),
}
TORCH = "torch==2.13.0"  # before everything else, so that no other build of it comes along


@dataclass(frozen=True)
class Engine:
    """One library at one precision; artifact is what `prepare.py` makes for it, `` for none."""

    library: str  # module of cpu_peers
    label: str
    precision: str
    package: str = ""  # of PINS; `` for OpenGTE itself
    artifact: str = ""

    @property
    def id(self) -> str:
        """Return the name that --only takes."""
        return f"{self.library}-{self.precision}"

    @property
    def ours(self) -> bool:
        """Return whether this is OpenGTE's compiled engine, which has targets to reach."""
        return self.library == "native"

    @property
    def peer(self) -> bool:
        """Return whether this is somebody else's engine."""
        return bool(self.package)


ENGINES = (
    Engine("native", "OpenGTE native int8", "int8"),
    Engine("native", "OpenGTE native bf16", "bf16"),
    Engine("native", "OpenGTE native fp32", "fp32"),
    Engine("torch", "OpenGTE torch fp32", "fp32"),
    Engine("sbert", "sentence-transformers fp32", "fp32", "sentence-transformers"),
    Engine("sbert", "sentence-transformers bf16", "bf16", "sentence-transformers"),
    Engine("onnx", "ONNX Runtime fp32", "fp32", "onnxruntime", "onnx"),
    Engine("onnx", "ONNX Runtime dynamic int8", "int8", "onnxruntime", "onnx-int8"),
    Engine("openvino", "OpenVINO fp32", "fp32", "openvino", "openvino"),
    Engine("openvino", "OpenVINO bf16", "bf16", "openvino", "openvino"),
    Engine("openvino", "OpenVINO int8 (NNCF) + bf16", "int8", "openvino", "openvino-int8"),
    Engine("zentorch", "zentorch (torch.compile) fp32", "fp32", "zentorch"),
    Engine("zentorch", "zentorch (torch.compile) bf16", "bf16", "zentorch"),
    Engine("ctranslate2", "CTranslate2 int8", "int8", "ctranslate2", "ctranslate2"),
)


@dataclass(frozen=True)
class Shape:
    """A model to run.

    random is a name of `random_checkpoint.SHAPES`, or `` for real weights; texts is how many of the
    set it takes, fewer for more operations a token, so that a round takes about as long as another.
    """

    id: str
    title: str
    pooling: str
    random: str = ""
    layers: int | None = None
    dtype: str = "F32"
    texts: int = 1000
    long_tokens: int = 0  # of the one long document, 0: none


SHAPES = (
    Shape("minilm", "all-MiniLM-L6-v2, real weights", "mean"),
    Shape("bert-base", "gte-base shape, random weights", "mean", "gte-base", texts=160),
    Shape(
        "new-base",
        "gte-base-en-v1.5 shape, random weights",
        "cls",
        "gte-base-en-v1.5",
        texts=120,
        long_tokens=8192,
    ),
    Shape(
        "qwen2-4-layers",
        "gte-Qwen2-1.5B shape cut to 4 layers, random weights",
        "last",
        "gte-Qwen2-1.5B-instruct",
        layers=4,
        dtype="BF16",
        texts=60,
        long_tokens=32768,
    ),
)
BASE_SHAPES = ("bert-base", "new-base")


def cannot_run(engine: Engine, shape: Shape) -> str:
    """Return why an engine has no way to run a shape, `` where it may."""
    if engine.library == "ctranslate2" and shape.id not in ("minilm", "bert-base"):
        return "its converters know BERT, and none knows this architecture as an encoder"
    return ""


@dataclass(frozen=True)
class Ratio:
    """A throughput target: ours >= factor x the best of the given peers."""

    ours: str
    factor: float
    peers: tuple[str, ...]
    note: str


RATIOS = (
    Ratio("native-int8", 1.6, ("openvino-int8",), "OpenVINO int8"),
    Ratio("native-int8", 2.2, ("zentorch-bf16",), "zentorch bf16"),
    Ratio("native-int8", 2.2, ("openvino-bf16",), "OpenVINO bf16"),
    Ratio("native-int8", 2.2, ("onnx-int8",), "ONNX Runtime int8"),
    Ratio("native-int8", 9.0, ("sbert-fp32",), "sentence-transformers fp32"),
    Ratio(
        "native-bf16", 1.3, ("openvino-bf16", "zentorch-bf16"), "best of OpenVINO, zentorch bf16"
    ),
    Ratio(
        "native-fp32",
        1.2,
        ("onnx-fp32", "openvino-fp32", "zentorch-fp32"),
        "best of ONNX Runtime, OpenVINO, zentorch fp32",
    ),
)
GEMM_SHARE = 0.65  # of the machine's int8 rate, on the base shapes
FIDELITY = {  # lowest and mean cosine to fp32
    "native-int8": (0.992, 0.9988),
    "native-bf16": (0.9999, 0.9999),
    "native-fp32": (0.999999, 0.999999),
}
QUERY = 0.6  # x the best peer's p50
START_SECONDS, START_MB = 0.4, 130
LONG_RATIO = 2.0  # x the best peer, one document of 8,192 tokens
LONG_EXTRA_MB = {"new-base": 150, "qwen2-4-layers": 1024}  # above the weights
BIG_PREPARE_MB, BIG_SECONDS, BIG_MB = 16 * 1024, 3.0, 9.5 * 1024  # of the 7B shape
STS_MEAN, STS_EACH, NDCG = -0.06, -0.12, -0.2  # points that int8 may lose against fp32
