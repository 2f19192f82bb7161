"""NV-Embed-v1 (arXiv 2405.17428): Mistral without the causal mask, latent-attention pooling."""

from dataclasses import replace

from opengte.arch import settings
from opengte.arch.decoder import BODY, mistral
from opengte.arch.plan import LatentAttention, Plan
from opengte.arch.settings import Config
from opengte.arch.tensors import Naming, Swapped

_ATTEND = "latent_attention_model.cross_attend_blocks.0"
_FEED = "latent_attention_model.cross_attend_blocks.1"

NVEMBED = Naming(
    body=dict(BODY),
    heads={
        "latent.latents": ("latent_attention_model.latents",),
        "latent.query_norm": (f"{_ATTEND}.norm",),
        "latent.context_norm": (f"{_ATTEND}.norm_context",),
        "latent.q": (f"{_ATTEND}.fn.to_q",),
        "latent.kv": (f"{_ATTEND}.fn.to_kv",),
        "latent.out": (f"{_ATTEND}.fn.to_out",),
        "latent.ffn_norm": (f"{_FEED}.norm",),
        "latent.up": (Swapped(f"{_FEED}.fn.net.0"),),
        "latent.down": (f"{_FEED}.fn.net.2",),
    },
    prefixes=("embedding_model.",),
    unused=(r".*rotary_emb\.inv_freq",),
)


def nvembed(config: Config) -> Plan:
    """Describe NV-Embed-v1: its decoder from `text_config`, its pool from the latent config."""
    text = config.get("text_config")
    pool = config.get("latent_attention_config")
    if not isinstance(text, dict) or not isinstance(pool, dict):
        raise settings.unsupported(
            config, "text_config", text, "an object, beside `latent_attention_config`"
        )
    decoder = mistral({**text, "is_causal": False, "sliding_window": None})
    latent = LatentAttention(
        latents=settings.count(pool, "num_latents_value", 512),
        latent_width=settings.count(pool, "latent_dim", 4096),
        heads=settings.count(pool, "num_cross_heads", 8),
        head_dim=settings.count(pool, "cross_dim_head", 4096),
        inner=4 * decoder.width,
        eps=1e-5,
    )
    return replace(decoder, architecture="nvembed", pooling="latent", latent=latent)
