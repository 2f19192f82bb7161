"""Tiny tokenizers built in code, one of each kind that a supported checkpoint has.

Every `save_*` writes `tokenizer.json` and `tokenizer_config.json` into `folder` (made if need be)
and returns the number of ids. All printable ASCII is covered; `WORDS` are single tokens.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

WORDS = (
    "the a of and in to is what how query passage document text capital china beijing sort sorting "
    "quick algorithm algorithms python cat dog sat mat red blue green paris france river mountain"
).split()
CHARACTERS = [chr(code) for code in range(33, 127)]
QWEN_SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def save_wordpiece(folder: Path, vocab_words: list[str] | None = None) -> int:
    """Write a lower-casing BERT tokenizer: [CLS] A [SEP], [CLS] A [SEP] B [SEP] with types 0, 1."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = list(WORDS if vocab_words is None else vocab_words)
    tokens = [*specials, *CHARACTERS, *("##" + c for c in CHARACTERS), *words, "##s", "##ing"]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(specials)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])],
    )
    names = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
    return _save(tokenizer, folder, "BertTokenizer", names, do_lower_case=True)


def save_unigram(folder: Path) -> int:
    """Write an XLM-R tokenizer: <s> A </s>, <s> A </s></s> B </s>, all of type 0."""
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)]
    pieces += [(c, -10.0) for c in CHARACTERS]
    pieces += [("▁" + word, -4.0) for word in WORDS] + [("s", -9.0), ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    names = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>"}
    names |= {"unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    return _save(tokenizer, folder, "XLMRobertaTokenizer", names)


def save_bpe(folder: Path, *, add_eos_token: bool | None = None) -> int:
    """Write a Qwen2 byte-level BPE tokenizer, whose template adds no special token.

    `add_eos_token=True` is the setting of gte-Qwen2: the text ends with <|endoftext|>.
    """
    settings = {} if add_eos_token is None else {"add_eos_token": add_eos_token}
    names = {"eos": "<|endoftext|>", "pad": "<|endoftext|>"}
    return _save(_byte_level_bpe(), folder, "Qwen2Tokenizer", names, **settings)


def save_qwen3(folder: Path) -> int:
    """Write a Qwen3-Embedding tokenizer: its template ends the text, its eos_token is another."""
    tokenizer = _byte_level_bpe()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <|endoftext|>",
        pair="$A $B:1 <|endoftext|>",
        special_tokens=[("<|endoftext|>", tokenizer.token_to_id("<|endoftext|>"))],
    )
    names = {"eos": "<|im_end|>", "pad": "<|endoftext|>"}
    return _save(tokenizer, folder, "Qwen2Tokenizer", names, add_bos_token=False)


def save_mistral(folder: Path, *, add_eos_token: bool = False) -> int:
    """Write a Mistral BPE tokenizer with byte fall-back: <s> A, and </s> if asked for."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *CHARACTERS]
    vocab, merges = _with_merges(tokens, ["▁" + word for word in WORDS])
    model = models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s>:0 $A:0", pair="<s>:0 $A:0 <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    names = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "</s>"}
    settings = {"add_bos_token": True, "add_eos_token": add_eos_token}
    return _save(tokenizer, folder, "LlamaTokenizer", names, **settings)


def _byte_level_bpe() -> Tokenizer:
    """Return a Qwen2 tokenizer over the 256 bytes and `WORDS`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab, merges = _with_merges(alphabet, [*("Ġ" + word for word in WORDS), *WORDS])
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(QWEN_SPECIALS)
    return tokenizer


def _with_merges(
    tokens: list[str], words: list[str]
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return a vocabulary in which every word grows from its letters, left to right."""
    vocab = {token: index for index, token in enumerate(tokens)}
    merges = {(word[:i], word[i]): None for word in words for i in range(1, len(word))}
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    return vocab, list(merges)


def _save(
    tokenizer: Tokenizer,
    folder: Path,
    tokenizer_class: str,
    names: dict[str, str],
    **settings: bool,
) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {f"{name}_token": token for name, token in names.items()}
    text = json.dumps({"tokenizer_class": tokenizer_class, **config, **settings}, indent=1)
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return int(tokenizer.get_vocab_size())
