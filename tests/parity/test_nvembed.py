"""NV-Embed against `naive`: no causal mask, latent attention, instruction tokens left out."""

import numpy as np
import pytest

from tests.parity import packed
from tests.support import checkpoints, naive


def _changed(part, **changes):
    return {part: checkpoints.NVEMBED_CONFIG[part] | changes}


def _latent(**changes):
    return _changed("latent_attention_config", **changes)


def _text(**changes):
    return _changed("text_config", **changes)


CASES = {
    "as published": {},
    "one latent": _latent(num_latents_value=1),
    "one head": _latent(num_cross_heads=1, cross_dim_head=32),
    "one layer": _text(num_hidden_layers=1),
    "every head its own keys": _text(num_key_value_heads=4),
    "window shorter than the text": _text(sliding_window=4),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_dense(tmp_path, case):
    config, tensors = checkpoints.nvembed_model(tmp_path, **case)
    rows, skip = packed.rows_of((1, 2, 3, 40, 40, 130)), [0, 1, 0, 7, 0, 100]
    found = packed.dense(packed.load(tmp_path), packed.pack(rows, skip=skip))
    for vector, row, count in zip(found, rows, skip, strict=True):
        packed.close(vector, naive.nvembed(config, tensors, row.tolist(), count))


def test_epsilon_of_the_latent_norms(tmp_path):
    config, tensors = checkpoints.nvembed_model(tmp_path, latent_scale=0.003)
    rows = packed.rows_of((3, 20))
    found = packed.dense(packed.load(tmp_path), packed.pack(rows))
    for vector, row in zip(found, rows, strict=True):
        packed.close(vector, naive.nvembed(config, tensors, row.tolist(), 0))


def test_instruction_tokens_still_shape_the_others(tmp_path):
    checkpoints.nvembed_model(tmp_path)
    engine, row = packed.load(tmp_path), packed.rows_of((12,))[0]
    whole = packed.dense(engine, packed.pack([row], skip=[4]))
    assert np.abs(whole - packed.dense(engine, packed.pack([row[4:]]))).max() > 1e-3
