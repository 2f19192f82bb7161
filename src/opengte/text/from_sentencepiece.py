"""From a SentencePiece model to a tokenizer of the `tokenizers` library."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from opengte.errors import UnsupportedModelError
from opengte.text import sentencepiece as spm
from opengte.text.files import read_json_if_there
from opengte.text.special import (
    ROBERTA_NAMES,
    added_token,
    kind_of,
    set_template,
    special_names,
    unsupported,
)


def from_sentencepiece(path: Path) -> Tokenizer:
    """Return the tokenizer of a SentencePiece file, with the special tokens of its kind."""
    model = spm.read_sentencepiece(path)
    kind = kind_of(path.parent)
    unusual = model.whitespace_as_suffix or not model.escape_whitespaces
    if unusual or model.kind not in (spm.UNIGRAM, spm.BPE):
        raise UnsupportedModelError(
            f"{path} is a SentencePiece model of kind {model.kind} with whitespace_as_suffix="
            f"{model.whitespace_as_suffix}, escape_whitespaces={model.escape_whitespaces}; "
            "expected Unigram (1) or BPE (2) with neither changed. Convert it to tokenizer.json."
        )
    if kind == "XLMRoberta" and model.kind == spm.UNIGRAM:
        return _xlm_roberta(model, path.parent)
    if kind not in ("", "T5", "Llama") or path.name == "sentencepiece.bpe.model":
        raise unsupported(path, kind)
    tokenizer = _plain_sentencepiece(model)
    if kind == "T5":
        set_template(tokenizer, "$A:0 </s>:0", "$B:0 </s>:0")
    config = read_json_if_there(path.parent / "tokenizer_config.json")
    if kind == "Llama" and config.get("add_bos_token", True):
        set_template(tokenizer, "<s>:0 $A:0", "<s>:1 $B:1")
    return tokenizer


def _plain_sentencepiece(model: spm.SentencePiece) -> Tokenizer:
    """Return a tokenizer with the ids that SentencePiece itself gives.

    The library normalises whole grapheme clusters, SentencePiece characters: they differ on a
    compatibility character with a combining mark after it, as they do for transformers.
    """
    if model.kind == spm.UNIGRAM:
        vocab = [(piece.text, piece.score) for piece in model.pieces]
        unigram = models.Unigram(vocab, model.unk_id, model.byte_fallback)
        tokenizer = Tokenizer(unigram)
    else:
        tokenizer = Tokenizer(_sentencepiece_bpe(model))
    steps = _charsmap(model)
    if model.remove_extra_whitespaces:
        collapse = normalizers.Replace(Regex(" {2,}"), " ")
        steps += [collapse, normalizers.Replace(Regex(r"\A | \z"), "")]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    for piece in model.pieces:
        if piece.kind in (spm.CONTROL, spm.UNKNOWN):
            tokenizer.add_special_tokens([added_token(piece.text)])
        elif piece.kind == spm.USER_DEFINED:
            tokenizer.add_tokens([AddedToken(piece.text, normalized=False)])
    return tokenizer


def _sentencepiece_bpe(model: spm.SentencePiece) -> models.BPE:
    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    return models.BPE(
        vocab,
        spm.merges_by_score(model.pieces),
        unk_token=model.pieces[model.unk_id].text,
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
    )


def _xlm_roberta(model: spm.SentencePiece, folder: Path) -> Tokenizer:
    """Return a tokenizer with XLM-R's ids, which are fairseq's: four special tokens come first."""
    names = ROBERTA_NAMES | special_names(folder)
    specials = [names[name] for name in ("bos", "pad", "eos", "unk")]
    pieces = [(piece.text, piece.score) for piece in model.pieces[3:]]
    vocab = [*((token, 0.0) for token in specials), *pieces, (names["mask"], 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(_charsmap(model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([added_token(token) for token in specials])
    tokenizer.add_special_tokens([added_token(names["mask"], {"lstrip": True})])
    bos, eos = names["bos"], names["eos"]
    set_template(tokenizer, f"{bos}:0 $A:0 {eos}:0", f"{eos}:0 $B:0 {eos}:0")
    return tokenizer


def _charsmap(model: spm.SentencePiece) -> list[normalizers.Normalizer]:
    return [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
