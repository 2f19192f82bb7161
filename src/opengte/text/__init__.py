"""From strings to token ids: tokenizers, prompts, instructions."""

from opengte.text.instructions import instruction_for
from opengte.text.prompts import Prompts, read_prompts
from opengte.text.tokenizer import Tokenizer, load_tokenizer

__all__ = ["Prompts", "Tokenizer", "instruction_for", "load_tokenizer", "read_prompts"]
