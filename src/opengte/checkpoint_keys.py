"""The keys of a checkpoint's files: used, known to change nothing, or told.

A key of `config.json`, or of an object in it, is used if its architecture read it, which
`ReadConfig` notes; those that are used of other files are in `USED`. Any key that is neither used
nor listed here, or has another value than the listed ones, is a CheckpointWarning that names it
and its file: it could change what the model computes.
"""

import re
import warnings
from collections.abc import Collection, Iterator, Mapping
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

_SPECIAL = "bos_token cls_token eos_token mask_token pad_token sep_token unk_token "
_SPECIAL += "additional_special_tokens extra_special_tokens"
# what decoding, padding, chats and other libraries read, and where a tokenizer came from
_TOKENIZER = "backend chat_template clean_up_tokenization_spaces device_map errors from_slow "
_TOKENIZER += "fix_mistral_regex is_local legacy local_files_only max_len max_length merges_file "
_TOKENIZER += "model_input_names name_or_path never_split pad_to_multiple_of pad_token_type_id "
_TOKENIZER += "padding padding_side processor_class response_schema response_template "
_TOKENIZER += "return_token_type_ids sp_model_kwargs spaces_between_special_tokens "
_TOKENIZER += "special_tokens_map_file stride tokenizer_file tokenizer_type trim_offsets "
_TOKENIZER += (
    "truncation truncation_strategy use_default_system_prompt use_fast verbose vocab_file "
)
_TOKENIZER += "model_specific_special_tokens chat_control_tokens "
_TOKENIZER += "tool_call_start tool_call_end "
_TOKENIZER += "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
# how a language model writes text, which embedding and scoring never do
_WRITING = "_commit_hash _from_model_config assistant_confidence_threshold assistant_early_exit "
_WRITING += "assistant_ensemble_weight assistant_lookbehind bad_words_ids begin_suppress_tokens "
_WRITING += "bos_token_id cache_config cache_implementation chat_format compile_config constraints "
_WRITING += "continuous_batching_config decoder_start_token_id disable_compile diversity_penalty "
_WRITING += "do_sample dola_layers early_stopping encoder_no_repeat_ngram_size "
_WRITING += "encoder_repetition_penalty eos_token_id epsilon_cutoff eta_cutoff "
_WRITING += "exponential_decay_length_penalty force_words_ids forced_bos_token_id "
_WRITING += "forced_decoder_ids forced_eos_token_id generation_kwargs guidance_scale is_assistant "
_WRITING += "length_penalty low_memory max_cache_len max_length max_matching_ngram_size "
_WRITING += "max_new_tokens max_time max_window_size min_length min_new_tokens min_p "
_WRITING += "no_repeat_ngram_size num_assistant_tokens num_assistant_tokens_schedule "
_WRITING += "num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states "
_WRITING += "output_logits output_scores pad_token_id penalty_alpha prefill_chunk_size "
_WRITING += "prompt_lookup_num_tokens remove_invalid_values renormalize_logits "
_WRITING += "repetition_penalty return_dict_in_generate return_legacy_cache sequence_bias "
_WRITING += "speculation_type stop_strings suppress_tokens target_lookbehind temperature "
_WRITING += "token_healing top_h top_k top_p transformers_version typical_p use_cache use_mtp "
_WRITING += "watermarking_config"

# keys that are applied, where `ReadConfig` does not note it
USED: Mapping[str, frozenset[str]] = {
    "tokenizer_config.json": frozenset(
        (
            f"{_SPECIAL} add_bos_token add_eos_token add_prefix_space added_tokens_decoder "
            "auto_map do_lower_case model_max_length strip_accents tokenize_chinese_chars "
            "tokenizer_class"
        ).split()
    ),
    "special_tokens_map.json": frozenset(_SPECIAL.split()),
    "modules.json": frozenset(("path", "type")),
    "adapter_config.json": frozenset(
        (
            "alpha_pattern base_model_name_or_path bias lora_alpha lora_bias modules_to_save "
            "peft_type r rank_pattern revision target_modules task_type use_dora use_rslora"
        ).split()
    ),
}

# objects in a file, and the table of their keys
NESTED: Mapping[str, str] = {
    "rope_parameters": "rope",
    "rope_scaling": "rope",
    "full_attention": "rope",
    "sliding_attention": "rope",
    "text_config": "text_config",
    "latent_attention_config": "latent_attention_config",
    "sentence_transformers": "sentence_transformers",
}

_CONFIG = frozenset(" ".join((_ABOUT, _NUMERICS, _TRAINING, _TOKENS, _HEADS, _IDLE)).split())
NO_EFFECT: Mapping[str, frozenset[str]] = {
    "config.json": _CONFIG,
    "text_config": _CONFIG | {"is_causal", "sliding_window"},  # NV-Embed's code sets both itself
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
    "tokenizer_config.json": frozenset(_TOKENIZER.split()),
    "special_tokens_map.json": frozenset(),
    "generation_config.json": frozenset(_WRITING.split()),
    "modules.json": frozenset(("idx", "name")),
    "rope": frozenset(),
    "latent_attention_config": frozenset(("model_type", "hidden_dim", "output_normalize")),
    "sentence_transformers": frozenset(("version",)),
    "Normalize": frozenset(),
    "Dropout": frozenset(("dropout",)),
    "LayerNorm": frozenset(("dimension",)),
    "WeightedLayerPooling": frozenset(
        ("embedding_dimension", "layer_start", "num_hidden_layers", "word_embedding_dimension")
    ),
    "Dense": frozenset(("in_features", "out_features", "bias", "activation_function")),
    # of late interaction: read by `checkpoint.late`
    "late": frozenset(
        (
            "skiplist_words skiplist_tasks pool_factor num_protected_tokens normalize_embeddings"
        ).split()
    ),
    "late Dense": frozenset(
        ("in_features out_features bias activation_function use_residual module_input_name").split()
    ),
    "late Normalize": frozenset(),
}
# scores are logits here; with these functions their order is the same
_LOGITS = (
    None,
    "torch.nn.modules.activation.Sigmoid",
    "torch.nn.modules.linear.Identity",
)
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
        "rope_parameters": (None,),
        "rope_scaling": (None,),
        "sbert_ce_default_activation_function": _LOGITS,
        "sliding_window": (None,),
        "use_bidirectional_attention": (None,),
        "use_mrope": (False, None),
    },
    "sentence_bert_config.json": {
        "config_args": ({}, None),
        "document_length": (None,),
        "model_args": ({}, None),
        "module_output_name": ("token_embeddings", "scores", None),
        "processing_kwargs": ({}, None),
        "query_expansion": (False, None),
        "query_length": (None,),
        "tokenizer_args": ({}, None),
    },
    "config_sentence_transformers.json": {"activation_fn": _LOGITS, "truncate_dim": (None,)},
    "sentence_transformers": {"activation_fn": _LOGITS},
    "rope": {"partial_rotary_factor": (1, None), "attention_factor": (1, None)},
    "late": {"keep_only_token_ids": (None,), "tasks": (["document"], None)},
    "late Dense": {"module_output_name": ("token_embeddings", None)},
    "late Normalize": {
        "module_input_name": ("token_embeddings", None),
        "module_output_name": ("token_embeddings", None),
    },
    "Normalize": {
        "module_input_name": ("sentence_embedding", None),
        "module_output_name": ("sentence_embedding", None),
    },
    "tokenizer_config.json": {
        "do_basic_tokenize": (True, None),
        "split_special_tokens": (False, None),
        "truncation_side": ("right", None),
    },
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
    """The settings of a file, which note what is read of them; so do the objects in them."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__(
            (key, ReadConfig(value) if isinstance(value, dict) else value)
            for key, value in settings.items()
        )
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


def check_keys(path: Path, settings: Mapping[str, Any], *, kind: str | None = None) -> None:
    """Warn of each key that is not applied; kind is the name of the file, or that of a module."""
    told = [
        f"`{key}` = {str(value)[:60]}" for key, value in _not_applied(settings, kind or path.name)
    ]
    if told:
        warnings.warn(
            f"`{path}` says what is not applied here: {', '.join(told)}. If it changes what the "
            "model computes, the vectors are wrong",
            CheckpointWarning,
            stacklevel=5,
        )


def _not_applied(settings: Mapping[str, Any], kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the keys that are neither used nor known to change nothing, and their values."""
    used: Collection[str] = USED.get(kind, ())
    if isinstance(settings, ReadConfig):
        used = settings.read
    for key, value in settings.items():
        known = key in used or key in NO_EFFECT[kind] or is_neutral(kind, key, value)
        if known and key in NESTED and isinstance(value, dict):
            for inner, found in _not_applied(value, NESTED[key]):
                yield f"{key}.{inner}", found
        elif not known and not (kind == "Pooling" and _POOLING_MODE.fullmatch(key)):
            yield key, value
