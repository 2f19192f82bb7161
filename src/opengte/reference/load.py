"""Loading weights into a PyTorch model, one parameter at a time, without a second copy."""

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opengte.arch.plan import Plan
from opengte.errors import WeightsError
from opengte.reference.model import ReferenceModel
from opengte.weights import WeightChunk


def load_reference_model(
    plan: Plan, chunks: Iterable[WeightChunk], dtype: torch.dtype, device: torch.device | str
) -> ReferenceModel:
    """Build a plan's model in evaluation mode from a stream of weights.

    Raises WeightsError if the stream lacks a weight.
    """
    with torch.device("meta"):
        model = ReferenceModel(plan)
    slot, parameter = "", torch.empty(0)
    for chunk in chunks:
        if chunk.slot != slot:
            slot, parameter = chunk.slot, _place(model, chunk.slot, dtype, device)
        rows = slice(chunk.row, chunk.row + len(chunk.values))
        parameter[rows].copy_(as_tensor(chunk.values, chunk.dtype))
    left = [name for name, p in model.named_parameters() if p.is_meta]
    if left:
        raise WeightsError(f"no values were given for `{'`, `'.join(left[:5])}`")
    return model.requires_grad_(False).eval()


def _place(
    model: ReferenceModel, slot: str, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    owner, _, name = slot.rpartition(".")
    module = model.get_submodule(owner)
    shape = module.get_parameter(name).shape
    parameter = nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
    setattr(module, name, parameter)
    return parameter.data


def as_tensor(values: "np.typing.NDArray[Any]", dtype: str) -> Tensor:
    """Return stored values as a tensor that shares their memory."""
    if dtype == "BF16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)


_TAGS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
}


def read_pickle(path: Path) -> Mapping[str, tuple["np.typing.NDArray[Any]", str]]:
    """Read a `pytorch_model.bin`: only tensors are unpickled, and no code is executed."""
    try:
        mapped = zipfile.is_zipfile(path)  # the format of PyTorch before 1.6 cannot be mapped
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # torch raises many types of errors for a damaged or hostile file
        raise WeightsError(f"`{path}` cannot be read as plain tensors: {error}") from None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(f"`{path}` is not a table of tensors")
    return {name: _as_array(tensor) for name, tensor in state.items() if tensor.dtype in _TAGS}


def _as_array(tensor: Tensor) -> tuple["np.typing.NDArray[Any]", str]:
    tag = _TAGS[tensor.dtype]
    plain = tensor.detach().contiguous()
    if tag == "BF16":
        return plain.view(torch.int16).numpy().view(np.uint16), tag
    return plain.numpy(), tag
