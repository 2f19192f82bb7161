"""From the tokenizer files of a checkpoint to a tokenizer of the `tokenizers` library.

Taken in this order: `tokenizer.json`; `vocab.txt` (WordPiece); a SentencePiece model; `vocab.json`
with `merges.txt` (byte-level BPE). A kind that is not known is refused, never guessed.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from opengte.errors import CheckpointError, CheckpointWarning, UnsupportedModelError
from opengte.text.backend import SPLITS, BackendFailure, guarded
from opengte.text.files import read_json, read_json_if_there, read_text
from opengte.text.sentencepiece import build_sentencepiece

NAMES = ("cls", "sep", "bos", "eos", "pad", "unk", "mask")
SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
BERT_NAMES = {"cls": "[CLS]", "sep": "[SEP]", "pad": "[PAD]", "unk": "[UNK]", "mask": "[MASK]"}
XLMR_NAMES = {
    **{"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"},
    **{"unk": "<unk>", "pad": "<pad>", "mask": "<mask>"},
}
LLAMA_NAMES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>"}
BERT_KINDS = {"Bert", "DistilBert", "Electra", "MobileBert", ""}
MODEL_TYPES = {  # model_type of config.json -> the tokenizer kind of its family
    **{"bert": "Bert", "distilbert": "DistilBert", "electra": "Electra"},
    **{"xlm-roberta": "XLMRoberta", "new": "XLMRoberta", "gte": "XLMRoberta"},
    **{"roberta": "Roberta", "t5": "T5", "mt5": "T5"},
    **{"llama": "Llama", "mistral": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen2"},
}
GENERIC_KINDS = {"PreTrained", "Tokenizers", "SentencePiece"}
