"""A model in training: the outputs that the losses need, and frozen heads for the others."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from opengte.errors import CapabilityError, InputError
from opengte.reference import layers
from opengte.reference.layers import PackedTensors
from opengte.reference.model import DropoutLayer, ReferenceModel
from opengte.train.losses.masked import masked_cross_entropy
from opengte.types import PackedBatch

# outputs with a row for each text; the others have one for each token
BY_TEXT = ("dense", "score")
HEADS = {"sparse": "sparse", "tokens": "tokens", "score": "score", "masked": "masked"}


class TrainableModel(nn.Module):
    """A model with the outputs to train; heads of other outputs are frozen.

    outputs are of `dense`, `sparse`, `tokens`, `score`, `masked`. precision `bf16` computes in
    bfloat16 with float32 weights; `fp32` leaves dtypes as they are. fill gives a model on the meta
    device its weights once each process has its shards. Raises CapabilityError for an output whose
    head the model does not have.

    >>> from opengte import checkpoint
    >>> from opengte.train.models.loading import load_trainable
    >>> trainable = TrainableModel(load_trainable(checkpoint.read_checkpoint(folder)))
    >>> trainable.outputs
    ('dense',)
    """

    def __init__(
        self,
        model: ReferenceModel,
        outputs: tuple[str, ...] = ("dense",),
        precision: str = "fp32",
        fill: Callable[[ReferenceModel], None] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self._fill = fill
        self.outputs = outputs
        self.precision = precision
        for output in outputs:
            head = HEADS.get(output)
            if head is not None and getattr(model, head) is None:
                raise CapabilityError(
                    f"outputs has {output!r}, but the model has no such head: "
                    "load it with a plan that has one"
                )
        model.requires_grad_(True)
        for output, head in HEADS.items():
            module = getattr(model, head)
            if module is not None and output not in outputs:
                module.requires_grad_(False)
        if "dense" not in outputs:
            for module in (model.latent, model.dense):
                if module is not None:
                    module.requires_grad_(False)

    def materialise(self, device: torch.device) -> None:
        """Move the weights to a device; weights on the meta device get their values there."""
        if not any(p.is_meta for p in self.parameters()):
            self.to(device)
            return
        if self._fill is None:
            raise InputError("the model is on the meta device and fill is None: give its weights")
        self.to_empty(device=device)
        self._fill(self.model)

    @property
    def parts(self) -> list[nn.Module]:
        """Return the submodules that are sharded, compiled and recomputed one by one."""
        return list(self.model.layers)

    def forward(self, packed: PackedTensors, targets: Tensor | None = None) -> dict[str, Tensor]:
        """Return the outputs by name, float32 or float64.

        dense (n, d); score (n,); sparse (t,); tokens (t, d'); with targets (t,) int64, token ids
        where a token was masked and -1 elsewhere, `masked`: the summed cross-entropy, a scalar.
        """
        half = self.precision == "bf16"
        with torch.autocast(packed.ids.device.type, torch.bfloat16, enabled=half):
            states = self.model(packed)
            outputs = {name: self._output(name, states, packed, targets) for name in self.outputs}
        return {name: x.to(layers.accumulation_dtype(x.dtype)) for name, x in outputs.items()}

    def _output(
        self, name: str, states: Tensor, packed: PackedTensors, targets: Tensor | None
    ) -> Tensor:
        match name:
            case "dense":
                return self.model.pool(states, packed)
            case "sparse":
                return self.model.sparse_weights(states)
            case "tokens":
                return self.model.token_vectors(states)
            case "score":
                return self.model.score_logits(states, packed)
            case _:
                assert targets is not None
                return self._masked(states, targets)

    def _masked(self, states: Tensor, targets: Tensor) -> Tensor:
        assert self.model.masked is not None
        places = (targets >= 0).nonzero()[:, 0]
        x = self.model.masked(states[places])
        return masked_cross_entropy(
            x, self.model.embedding.word, self.model.masked.bias, targets[places]
        )

    def set_dropout(self, p: float) -> None:
        """Set the dropout probability of hidden states."""
        for module in self.modules():
            if isinstance(module, DropoutLayer):
                module.p = p


def activation_bytes(model: ReferenceModel, precision: str) -> int:
    """Return roughly how many bytes one token's activations take for the backward pass."""
    half = precision == "bf16"
    total = 0
    for layer in model.plan.layers:
        a, f = layer.attention, layer.ffn
        heads = (2 * a.heads + 2 * a.kv_heads) * a.head_dim
        if a.rope is not None:
            heads += 4 * (a.heads + a.kv_heads) * a.head_dim
        inner = f.inner * (5 if f.gated else 2)
        total += 6 * model.plan.width + heads + inner
    return total * (3 if half else 4)


def flops_per_token(model: ReferenceModel) -> float:
    """Return the FLOPs of one token's forward pass, without attention scores."""
    tables = {"embedding.word", "embedding.position", "embedding.token_type"}
    slots = model.plan.slots()
    return 2.0 * sum(int(np.prod(slot.shape)) for name, slot in slots.items() if name not in tables)


def concatenate_batches(batches: list[PackedBatch]) -> PackedBatch:
    """Return the sequences of all batches, in order."""
    lengths = np.concatenate([batch.lengths for batch in batches])
    cu_seqlens = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=cu_seqlens[1:])
    return PackedBatch(
        np.concatenate([batch.ids for batch in batches]),
        cu_seqlens,
        np.concatenate([batch.type_ids for batch in batches]),
        np.concatenate([batch.pool_from for batch in batches]),
    )
