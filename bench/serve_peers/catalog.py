"""What is compared: the servers, what they need installed, and the figures to reach."""

from dataclasses import dataclass

TORCH = "torch==2.13.0"  # in every environment, so that no other build of it comes along
PINS = {  # one environment each: their pins exclude each other
    "infinity": (
        "infinity-emb[server,torch,optimum]==0.0.78",
        "transformers==4.48.3",
        "optimum==1.24.0",
        "sentence-transformers==3.4.1",
        "datasets==3.6.0",
        "pyarrow==20.0.0",
        "numpy==1.26.4",
        "onnx==1.23.2",
        "onnxruntime==1.31.1",
    ),
    "plain": (
        "sentence-transformers==6.2.0",
        "transformers==5.23.0",
        "fastapi==0.165.0",
        "uvicorn[standard]==0.54.0",
    ),
}
MODEL = "minilm"  # the name under which every server serves all-MiniLM-L6-v2


@dataclass(frozen=True)
class Server:
    """A server to start; environment is a name of PINS, `` for OpenGTE's own interpreter."""

    id: str
    label: str
    environment: str = ""
    artifact: str = ""  # the folder that `prepare.py` makes for it, `` for the model as it is

    @property
    def ours(self) -> bool:
        """Return whether this is OpenGTE, which has targets to reach."""
        return not self.environment


SERVERS = (
    Server("opengte", "OpenGTE"),
    Server("infinity-torch", "Infinity 0.0.78, torch", "infinity"),
    Server("infinity-onnx", "Infinity 0.0.78, ONNX", "infinity", "onnx"),
    Server("infinity-onnx-int8", "Infinity 0.0.78, ONNX int8", "infinity", "onnx-int8"),
    Server("plain", "FastAPI + sentence-transformers 6.2", "plain"),
)

THROUGHPUT = 5.0  # x the best peer, at saturation
OFFLINE = 0.85  # of what the engine does without a server
LATENCY = 0.2  # x the best peer's p50 and p99, each at half of its own saturation
IDLE_MS = 4.0
BULK_RISE = 2.0  # p99 of queries beside a bulk client, x alone
OVERHEAD_ONE_MS = 1.0
OVERHEAD_MANY = 0.10  # of the forward pass, 256 texts
MEMORY = 0.05  # growth of the resident set during the soak
GOODPUT = 0.95  # of the saturation figure, at twice that load
START_SECONDS = 1.0
