"""The keys of a checkpoint's files: used, known to change nothing, or told.

A key of `config.json` is used if its architecture read it, which `ReadConfig` notes. Any key that
is neither used nor listed here, or has another value than the listed ones, is a CheckpointWarning
that names it and its file: it could change what the model computes.
"""

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from opengte.errors import CheckpointWarning

# keys that change no vector, whatever their value, if the architecture did not read them
_ABOUT = "_name_or_path _commit_hash architectures auto_map finetuning_task language license "
_ABOUT += "model_type tokenizer_class transformers_version transformers.js_config torchscript "
_ABOUT += "sentence_transformers task_specific_params prefix padding_side add_eos mask_type "
_ABOUT += "add_pad_token is_mask_instruction tie_word_embeddings pack_qkv tie_encoder_decoder"
_NUMERICS = "dtype torch_dtype use_bfloat16 use_cache unpad_inputs use_memory_efficient_attention "
_NUMERICS += "attn_implementation _attn_implementation _attn_implementation_autoset return_dict "
_NUMERICS += "_flash_attn_2_enabled deterministic_flash_attn reference_compile pretraining_tp "
_NUMERICS += "repad_logits_with_grad chunk_size_feed_forward gradient_checkpointing "
_NUMERICS += "output_attentions output_hidden_states output_past use_return_dict"
_TRAINING = "attention_dropout attention_probs_dropout_prob classifier_dropout hidden_dropout_prob "
_TRAINING += "embedding_dropout mlp_dropout hidden_dropout resid_pdrop embd_pdrop attn_pdrop "
_TRAINING += "initializer_range initializer_cutoff_factor sparse_prediction decoder_bias "
_TRAINING += (
    "sparse_pred_ignore_index problem_type seq_classifier_dropout_prob dropout dropout_rate "
)
_TRAINING += "qa_dropout seq_classif_dropout initializer_factor"
_TOKENS = "bos_token_id cls_token_id eos_token_id mask_token_id pad_token_id sep_token_id "
_TOKENS += "unk_token_id decoder_start_token_id"
_HEADS = "classifier_activation classifier_bias classifier_pooling id2label label2id num_labels "
_HEADS += "directionality pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers "
_HEADS += "pooler_size_per_head pooler_type summary_activation summary_use_proj summary_type "
_HEADS += "summary_last_dropout"
# what another key switches off, or an architecture has by another name
_IDLE = "hidden_size layer_norm_eps layer_types max_window_layers position_embedding_type "
_IDLE += "use_sliding_window local_attention local_rope_theta global_attn_every_n_layers "
_IDLE += "global_rope_theta rope_theta dense_act_fn is_gated_act num_decoder_layers "
_IDLE += "scale_decoder_outputs sinusoidal_pos_embds"

NO_EFFECT: Mapping[str, frozenset[str]] = {
    "config.json": frozenset(
        " ".join((_ABOUT, _NUMERICS, _TRAINING, _TOKENS, _HEADS, _IDLE)).split()
    ),
    "sentence_bert_config.json": frozenset(
        ("max_seq_length", "do_lower_case", "transformer_task", "modality_config", "unpad_inputs")
    ),
    "config_sentence_transformers.json": frozenset(
        ("__version__", "prompts", "default_prompt_name", "similarity_fn_name", "model_type")
    ),
    # which modules are adapted, the tensors say; training decided the rest
    "adapter_config.json": frozenset(
        (
            "auto_mapping exclude_modules fan_in_fan_out inference_mode layers_pattern "
            "layers_to_transform loftq_config eva_config corda_config lora_ga_config lora_dropout "
            "megatron_core peft_version qalora_group_size runtime_config"
        ).split()
    ),
    "Pooling": frozenset(("word_embedding_dimension", "embedding_dimension", "include_prompt")),
    "Dense": frozenset(("in_features", "out_features", "bias", "activation_function")),
}
# keys that change no vector with one of these values
NEUTRAL: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "config.json": {
        "add_cross_attention": (False, None),
        "attention_bias": (False, None),
        "cross_attention_hidden_size": (None,),
        "head_dim": (None,),
        "is_causal": (None,),
        "is_decoder": (False, None),
        "is_encoder_decoder": (False, None),
        "mlp_bias": (False, None),
        "pruned_heads": ({}, None),
        "rope_scaling": (None,),
        "sliding_window": (None,),
        "use_bidirectional_attention": (None,),
        "use_mrope": (False, None),
    },
    "sentence_bert_config.json": {
        "config_args": ({}, None),
        "document_length": (None,),
        "model_args": ({}, None),
        "module_output_name": ("token_embeddings", None),
        "processing_kwargs": ({}, None),
        "query_expansion": (False, None),
        "query_length": (None,),
        "tokenizer_args": ({}, None),
    },
    "config_sentence_transformers.json": {"truncate_dim": (None,)},
    "adapter_config.json": {
        "alora_invocation_tokens": (None,),
        "arrow_config": (None,),
        "ensure_weight_tying": (False, None),
        "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
        "kasa_config": (None,),
        "layer_replication": (None,),
        "megatron_config": (None,),
        "monteclora_config": (None,),
        "target_parameters": (None, []),
        "trainable_token_indices": (None, []),
        "use_bdlora": (None, False),
        "use_qalora": (False, None),
        "velora_config": (None,),
    },
    "Dense": {
        "module_input_name": ("sentence_embedding", None),
        "module_output_name": ("sentence_embedding", None),
        "use_residual": (False, None),
    },
}
_POOLING_MODE = re.compile(r"pooling_mode(_\w+)?")  # read; one that is not known is an error


class ReadConfig(dict[str, Any]):
    """The settings of a file, which note what is read of them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(settings)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of a key, and note that it was read."""
        self.read.add(key)
        return super().get(key, default)


def is_neutral(kind: str, key: str, value: Any) -> bool:
    """Return whether a key changes no vector with this value."""
    return any(value == one for one in NEUTRAL.get(kind, {}).get(key, ()))


def check_keys(
    path: Path, settings: Mapping[str, Any], *, kind: str | None = None, used: Collection[str] = ()
) -> None:
    """Warn of each key that is not applied; kind is the name of the file, or that of a module."""
    kind = kind or path.name
    told = [
        f"`{key}` = {str(value)[:60]}"
        for key, value in settings.items()
        if key not in used
        and key not in NO_EFFECT[kind]
        and not is_neutral(kind, key, value)
        and not (kind == "Pooling" and _POOLING_MODE.fullmatch(key))
    ]
    if told:
        warnings.warn(
            f"`{path}` says what is not applied here: {', '.join(told)}. If it changes what the "
            "model computes, the vectors are wrong",
            CheckpointWarning,
            stacklevel=5,
        )
