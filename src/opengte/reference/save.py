"""Writing a safetensors file, one tensor at a time."""

import json
import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

FILE = "model.safetensors"
_TAGS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
}

Layout = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


def write_safetensors(path: Path, layout: Layout, values: Iterable[Tensor]) -> None:
    """Write the tensors of a layout, in its order, to a file and sync it to disk.

    layout maps names to shapes and dtypes. values are converted to these dtypes; only one is in
    memory at a time.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (shape, dtype) in layout.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        span = [offset, offset + size]
        header[name] = {"dtype": _TAGS[dtype], "shape": list(shape), "data_offsets": span}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, (shape, dtype)), value in zip(layout.items(), values, strict=True):
            if tuple(value.shape) != shape:
                raise ValueError(f"`{name}` has shape {tuple(value.shape)}, expected {shape}")
            plain = value.detach().to("cpu", dtype).contiguous()
            file.write(plain.reshape(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
