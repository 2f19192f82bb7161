"""NV-Embed-v1 (arXiv 2405.17428): Mistral without the causal mask, latent-attention pooling."""

from collections import ChainMap
from dataclasses import replace

from opengte.arch import config_values
from opengte.arch.config_values import Config
from opengte.arch.decoder import BODY
from opengte.arch.mistral import mistral_plan
from opengte.arch.plan import LatentAttention, Plan
from opengte.arch.tensors import SwappedParts, TensorNaming

_ATTEND = "latent_attention_model.cross_attend_blocks.0"
_FEED = "latent_attention_model.cross_attend_blocks.1"

NVEMBED = TensorNaming(
    body=dict(BODY),
    heads={
        "latent.latents": ("latent_attention_model.latents",),
        "latent.query_norm": (f"{_ATTEND}.norm",),
        "latent.context_norm": (f"{_ATTEND}.norm_context",),
        "latent.q": (f"{_ATTEND}.fn.to_q",),
        "latent.kv": (f"{_ATTEND}.fn.to_kv",),
        "latent.out": (f"{_ATTEND}.fn.to_out",),
        "latent.ffn_norm": (f"{_FEED}.norm",),
        "latent.up": (SwappedParts(f"{_FEED}.fn.net.0"),),
        "latent.down": (f"{_FEED}.fn.net.2",),
    },
    prefixes=("embedding_model.",),
    unused=(r".*rotary_emb\.inv_freq",),
)


def nvembed_plan(config: Config) -> Plan:
    """Return the plan of NV-Embed-v1: the decoder of `text_config`, latent-attention pooling."""
    text = config.get("text_config")
    pool = config.get("latent_attention_config")
    if not isinstance(text, dict) or not isinstance(pool, dict):
        raise config_values.unsupported_value(
            config, "text_config", text, "an object, beside `latent_attention_config`"
        )
    decoder = mistral_plan(ChainMap({"is_causal": False, "sliding_window": None}, text))
    latent = LatentAttention(
        latents=config_values.whole_number(pool, "num_latents_value", 512),
        latent_width=config_values.whole_number(pool, "latent_dim", 4096),
        heads=config_values.whole_number(pool, "num_cross_heads", 8),
        head_dim=config_values.whole_number(pool, "cross_dim_head", 4096),
        inner=4 * decoder.width,
        eps=1e-5,
    )
    return replace(decoder, architecture="nvembed", pooling="latent", latent=latent)
