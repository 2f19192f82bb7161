"""Make what a peer loads: ONNX and OpenVINO files, their int8 forms, the CTranslate2 folder.

    python -m cpu_peers.prepare ARTIFACT PEER_FOLDER POOLING TEXTS OUT

TEXTS is what int8 is calibrated on.

Run in the peers' environment, one artifact a process, before anything is timed.
"""

import json
import sys
from pathlib import Path
from typing import Any

CALIBRATION, QUICK_CALIBRATION = 300, 8  # texts
EXAMPLE = ((101, 2023, 2003, 102), (101, 2023, 2003, 1037, 3231, 102))  # of two lengths
MAX_LENGTH = 512


def onnx(folder: Path, pooling: str, texts: list[str], out: Path) -> None:
    """Export the network with its pooling, for batches of any size."""
    import torch

    from cpu_peers import sentence_module
    from cpu_peers.padded_batches import pad

    module = sentence_module.load(folder, pooling, "fp32")
    ids, mask = pad(EXAMPLE)
    # names, so that both inputs share their dimensions
    batch, length = torch.export.Dim("batch", max=4096), torch.export.Dim("length", max=32768)
    with torch.inference_mode():
        torch.onnx.export(
            module,
            (torch.from_numpy(ids), torch.from_numpy(mask)),
            str(out),
            input_names=["ids", "mask"],
            output_names=["vectors"],
            dynamic_shapes={"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}},
            dynamo=True,
        )


def onnx_int8(folder: Path, pooling: str, texts: list[str], out: Path) -> None:
    """Quantise the exported model: weights per channel, activations as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(out.parent / "model.onnx"), str(out), weight_type=QuantType.QInt8, per_channel=True
    )


def openvino(folder: Path, pooling: str, texts: list[str], out: Path) -> None:
    """Convert the network from PyTorch, which keeps its attention whole, unlike the ONNX file."""
    import openvino
    import torch

    from cpu_peers import sentence_module
    from cpu_peers.padded_batches import pad

    ids, mask = map(torch.from_numpy, pad(EXAMPLE))
    with torch.inference_mode():
        model = openvino.convert_model(
            sentence_module.load(folder, pooling, "fp32"), example_input={"ids": ids, "mask": mask}
        )
    openvino.save_model(model, out, compress_to_fp16=False)


def openvino_int8(folder: Path, pooling: str, texts: list[str], out: Path) -> None:
    """Quantise weights and activations by NNCF, calibrated on texts of the benchmark's own set."""
    import nncf
    import openvino

    from cpu_peers.padded_batches import pad, tokenizer

    encode = tokenizer(folder, MAX_LENGTH).encode

    def inputs(text: str) -> dict[str, Any]:
        ids, mask = pad([encode(text).ids])
        return {"ids": ids, "mask": mask}

    model = openvino.Core().read_model(out.parent / "openvino.xml")
    quantised = nncf.quantize(
        model,
        nncf.Dataset(texts, inputs),
        subset_size=len(texts),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantised, out)


def ctranslate2(folder: Path, pooling: str, texts: list[str], out: Path) -> None:
    """Convert BERT to CTranslate2's int8."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(folder)).convert(str(out), quantization="int8")


MAKERS = {
    "onnx": onnx,
    "onnx-int8": onnx_int8,
    "openvino": openvino,
    "openvino-int8": openvino_int8,
    "ctranslate2": ctranslate2,
}
FILES = {
    "onnx": "model.onnx",
    "onnx-int8": "model-int8.onnx",
    "openvino": "openvino.xml",
    "openvino-int8": "openvino-int8.xml",
    "ctranslate2": "ctranslate2",
}
CALIBRATED = ("openvino-int8",)
NEEDS = {"onnx-int8": "onnx", "openvino-int8": "openvino"}


def file_of(artifact: str, quick: bool) -> str:
    """Return an artifact's file name; what a quick run calibrates is never taken by a real one."""
    name = FILES.get(artifact, "")
    return f"quick-{name}" if quick and artifact in CALIBRATED else name


def main() -> None:
    """Make one artifact."""
    artifact, folder, pooling, texts, out = sys.argv[1:]
    MAKERS[artifact](Path(folder), pooling, json.loads(Path(texts).read_text()), Path(out))


if __name__ == "__main__":
    main()
