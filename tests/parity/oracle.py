"""What transformers' own classes give for one sequence alone."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tests.support import checkpoints

Ids = npt.NDArray[np.int32]
Array = npt.NDArray[Any]


def random_ids(length: int, seed: int = 0) -> Ids:
    generator = np.random.default_rng([seed, length])
    return generator.integers(3, checkpoints.VOCABULARY, size=length, dtype=np.int32)


def _call(model: Any, ids: Ids, **inputs: Any) -> Any:
    with torch.no_grad():
        return model(input_ids=torch.from_numpy(ids[None].astype(np.int64)), **inputs)


def _types(types: Ids | None) -> dict[str, torch.Tensor]:
    if types is None:
        return {}
    return {"token_type_ids": torch.from_numpy(types[None].astype(np.int64))}


def states(model: Any, ids: Ids, types: Ids | None = None) -> Array:
    """Return the last hidden state (L, H)."""
    found: Array = _call(model, ids, **_types(types)).last_hidden_state[0].numpy()
    return found


def bidirectional_states(model: Any, ids: Ids) -> Array:
    """Return the same for a decoder whose mask hides nothing; the model must be `eager`."""
    nothing_hidden = torch.zeros(1, 1, len(ids), len(ids), dtype=model.dtype)
    found: Array = _call(model, ids, attention_mask=nothing_hidden).last_hidden_state[0].numpy()
    return found


def logit(model: Any, ids: Ids, types: Ids | None = None) -> float:
    """Return the first logit of a sequence classifier."""
    return float(_call(model, ids, **_types(types)).logits[0, 0])


def token_logits(model: Any, ids: Ids) -> Array:
    """Return the logits of every token."""
    found: Array = _call(model, ids).logits[0].numpy()
    return found


def last_logits(model: Any, ids: Ids) -> Array:
    """Return the vocabulary logits of the last token of a language model."""
    last: Array = token_logits(model, ids)[-1]
    return last
