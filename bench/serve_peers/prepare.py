"""Make the folder that Infinity's ONNX engine loads: the model's files, and its network as ONNX.

    python -m serve_peers.prepare FOLDER OUT [int8]

Run in Infinity's environment, before anything is timed.
"""

import shutil
import sys
from pathlib import Path

EXAMPLE = ("A text.", "Another text, which is longer than the first.")
NAMES = ["input_ids", "attention_mask", "token_type_ids"]


def export(folder: Path, file: Path) -> None:
    """Write the encoder, from token ids to the last hidden states."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    model.config.return_dict = False
    batch = tokenizer(list(EXAMPLE), padding=True, return_tensors="pt")
    axes = {0: "batch", 1: "length"}
    with torch.inference_mode():
        torch.onnx.export(
            model,
            tuple(batch[name] for name in NAMES),
            str(file),
            input_names=NAMES,
            output_names=["last_hidden_state"],
            dynamic_axes={name: axes for name in (*NAMES, "last_hidden_state")},
            opset_version=17,
            dynamo=False,
        )


def quantise(source: Path, file: Path) -> None:
    """Write the network with int8 weights per channel and activations quantised as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(source), str(file), weight_type=QuantType.QInt8, per_channel=True)


def main() -> None:
    """Make the folder."""
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(folder, partial)
    (partial / "onnx").mkdir()
    whole = partial / "onnx" / "model.onnx"
    export(folder, whole)
    if "int8" in sys.argv[3:]:
        quantise(whole, partial / "onnx" / "model_quantized.onnx")
        whole.unlink()
    partial.rename(out)


if __name__ == "__main__":
    main()
