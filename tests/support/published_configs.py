"""The settings of published checkpoints, as their `config.json` files state them.

Only the keys that decide the network; values from the models' cards and configuration files.
"""

from typing import Any

Config = dict[str, Any]


def _bert(layers: int, width: int, heads: int, vocabulary: int = 30522) -> Config:
    return {
        "model_type": "bert",
        "architectures": ["BertModel"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }


def _xlm_roberta(layers: int, width: int, heads: int, positions: int, **changes: Any) -> Config:
    return {
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaModel"],
        "vocab_size": 250002,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
        "max_position_embeddings": positions,
        "type_vocab_size": 1,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "absolute",
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    } | changes


def _new(layers: int, width: int, heads: int, **changes: Any) -> Config:
    return {
        "model_type": "new",
        "architectures": ["NewModel"],
        "vocab_size": 30528,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 8192,
        "layer_norm_type": "layer_norm",
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "rope",
        "rope_scaling": None,
        "pack_qkv": True,
        "unpad_inputs": False,
        "use_memory_efficient_attention": False,
        "logn_attention_scale": False,
        "logn_attention_clip1": False,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    } | changes


def _multilingual(*architectures: str) -> Config:
    return _new(
        12,
        768,
        12,
        architectures=list(architectures),
        vocab_size=250048,
        type_vocab_size=1,
        rope_theta=20000,
        rope_scaling={"factor": 8.0, "type": "ntk"},
        pad_token_id=1,
        id2label={"0": "LABEL_0"},
        label2id={"LABEL_0": 0},
        torch_dtype="float16",
    )


def _modernbert(*architectures: str, **changes: Any) -> Config:
    return {
        "model_type": "modernbert",
        "architectures": list(architectures),
        "vocab_size": 50368,
        "hidden_size": 768,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
        "intermediate_size": 1152,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "decoder_bias": True,
        "global_attn_every_n_layers": 3,
        "local_attention": 128,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "position_embedding_type": "absolute",
        "classifier_pooling": "cls",
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "layer_norm_eps": 1e-5,
        "pad_token_id": 50283,
        "cls_token_id": 50281,
        "sep_token_id": 50282,
        "torch_dtype": "float16",
    } | changes


def _gte_qwen(layers: int, width: int, heads: int, kv_heads: int, **changes: Any) -> Config:
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "auto_map": {
            "AutoModel": "modeling_qwen.Qwen2Model",
            "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM",
            "AutoModelForSequenceClassification": "modeling_qwen.Qwen2ForSequenceClassification",
        },
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": layers,
        "tie_word_embeddings": False,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "vocab_size": 151646,
        "attention_dropout": 0.0,
        "torch_dtype": "float32",
    } | changes


def _qwen3(layers: int, width: int, heads: int, inner: int, vocabulary: int) -> Config:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": inner,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000,
        "rope_scaling": None,
        "attention_bias": False,
        "sliding_window": None,
        "use_sliding_window": False,
        "max_window_layers": layers,
        "tie_word_embeddings": True,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
        "torch_dtype": "bfloat16",
    }


_MISTRAL_7B: Config = {
    "model_type": "mistral",
    "architectures": ["MistralModel"],
    "vocab_size": 32000,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "hidden_act": "silu",
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "float16",
}

_NVEMBED: Config = {
    "model_type": "nvembed",
    "architectures": ["NVEmbedModel"],
    "is_mask_instruction": True,
    "padding_side": "right",
    "add_eos": True,
    "mask_type": "b",
    "hidden_size": 4096,
    "text_config": _MISTRAL_7B | {"model_type": "bidir_mistral"},
    "latent_attention_config": {
        "model_type": "latent_attention",
        "num_latents_value": 512,
        "num_cross_heads": 8,
        "output_normalize": False,
        "hidden_dim": 4096,
        "latent_dim": 4096,
        "cross_dim_head": 4096,
    },
    "torch_dtype": "float16",
}

_MPNET: Config = {
    "model_type": "mpnet",
    "architectures": ["MPNetForMaskedLM"],
    "vocab_size": 30527,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 514,
    "relative_attention_num_buckets": 32,
    "layer_norm_eps": 1e-5,
}
_DISTILBERT: Config = {
    "model_type": "distilbert",
    "architectures": ["DistilBertForMaskedLM"],
    "vocab_size": 30522,
    "dim": 768,
    "n_layers": 6,
    "n_heads": 12,
    "hidden_dim": 3072,
    "activation": "gelu",
    "max_position_embeddings": 512,
    "sinusoidal_pos_embds": False,
}
_NOMIC: Config = {
    "model_type": "nomic_bert",
    "architectures": ["NomicBertModel"],
    "activation_function": "swiglu",
    "vocab_size": 30528,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": 3072,
    "n_positions": 8192,
    "max_trained_positions": 2048,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_scaling_factor": None,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "type_vocab_size": 2,
}
_EMBEDDING_GEMMA: Config = {
    "model_type": "gemma3_text",
    "architectures": ["Gemma3TextModel"],
    "vocab_size": 262144,
    "hidden_size": 768,
    "num_hidden_layers": 24,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "intermediate_size": 1152,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "_sliding_window_pattern": 6,
    "sliding_window": 512,
    "use_bidirectional_attention": True,
    "max_position_embeddings": 2048,
}
_T5_BASE: Config = {
    "model_type": "t5",
    "architectures": ["T5EncoderModel"],
    "vocab_size": 32128,
    "d_model": 768,
    "d_kv": 64,
    "d_ff": 3072,
    "num_layers": 12,
    "num_heads": 12,
    "is_encoder_decoder": True,
}
_LLAMA_8B: Config = {
    "model_type": "llama_bidirec",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "rope_theta": 5e5,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

CONFIGS: dict[str, Config] = {
    "sentence-transformers/all-mpnet-base-v2": _MPNET,
    "distilbert/distilbert-base-uncased": _DISTILBERT,
    "nomic-ai/nomic-embed-text-v1.5": _NOMIC,
    "google/embeddinggemma-300m": _EMBEDDING_GEMMA,
    "sentence-transformers/gtr-t5-base": _T5_BASE,
    "nvidia/llama-embed-nemotron-8b": _LLAMA_8B,
    "thenlper/gte-small": _bert(12, 384, 12),
    "thenlper/gte-base": _bert(12, 768, 12),
    "thenlper/gte-large": _bert(24, 1024, 16),
    "thenlper/gte-small-zh": _bert(6, 512, 8, 21128),
    "thenlper/gte-base-zh": _bert(12, 768, 12, 21128),
    "thenlper/gte-large-zh": _bert(24, 1024, 16, 21128),
    "sentence-transformers/all-MiniLM-L6-v2": _bert(6, 384, 12),
    "BAAI/bge-m3": _xlm_roberta(24, 1024, 16, 8194),
    "BAAI/bge-reranker-base": _xlm_roberta(
        12,
        768,
        12,
        514,
        architectures=["XLMRobertaForSequenceClassification"],
        id2label={"0": "LABEL_0"},
        label2id={"LABEL_0": 0},
    ),
    "Alibaba-NLP/gte-base-en-v1.5": _new(12, 768, 12, type_vocab_size=0, rope_theta=500000),
    "Alibaba-NLP/gte-large-en-v1.5": _new(
        24,
        1024,
        16,
        type_vocab_size=2,
        rope_theta=160000,
        rope_scaling={"type": "ntk", "factor": 2.0},
    ),
    "Alibaba-NLP/gte-multilingual-base": _multilingual("NewModel", "NewForTokenClassification"),
    "Alibaba-NLP/gte-multilingual-reranker-base": _multilingual("NewForSequenceClassification"),
    "Alibaba-NLP/gte-modernbert-base": _modernbert("ModernBertModel"),
    "Alibaba-NLP/gte-reranker-modernbert-base": _modernbert(
        "ModernBertForSequenceClassification",
        classifier_pooling="mean",
        id2label={"0": "LABEL_0"},
        label2id={"LABEL_0": 0},
    ),
    "Alibaba-NLP/gte-Qwen1.5-7B-instruct": _gte_qwen(
        32, 4096, 32, 32, intermediate_size=11008, vocab_size=151936, max_position_embeddings=32768
    ),
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": _gte_qwen(28, 1536, 12, 2, intermediate_size=8960),
    "Alibaba-NLP/gte-Qwen2-7B-instruct": _gte_qwen(28, 3584, 28, 4, intermediate_size=18944),
    "Qwen/Qwen3-Embedding-0.6B": _qwen3(28, 1024, 16, 3072, 151669),
    "Qwen/Qwen3-Embedding-4B": _qwen3(36, 2560, 32, 9728, 151665),
    "Qwen/Qwen3-Embedding-8B": _qwen3(36, 4096, 32, 12288, 151665),
    "intfloat/e5-mistral-7b-instruct": _MISTRAL_7B,
    "nvidia/NV-Embed-v1": _NVEMBED,
}
