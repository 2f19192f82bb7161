"""Strings to token ids: loading tokenizers, special tokens, truncation, prompts, instructions."""

from opengte.tokenization.instructions import instruction_for
from opengte.tokenization.loading import load_tokenizer
from opengte.tokenization.prompts import Prompts, read_prompts
from opengte.tokenization.tokenizer import Tokenizer

__all__ = ["Prompts", "Tokenizer", "instruction_for", "load_tokenizer", "read_prompts"]
