"""A tokenizer of the `tokenizers` library from a SentencePiece model."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from opengte.errors import CheckpointError, UnsupportedModelError
from opengte.tokenization import sentencepiece as spm
from opengte.tokenization.checkpoint_files import read_json_if_there
from opengte.tokenization.special_tokens import (
    ROBERTA_NAMES,
    added_token,
    set_template,
    special_tokens,
    tokenizer_kind,
    unsupported_tokenizer,
)


def from_sentencepiece(path: Path) -> Tokenizer:
    """Return the tokenizer of a SentencePiece file, with the special tokens of its kind."""
    model = spm.read_sentencepiece(path)
    kind = tokenizer_kind(path.parent)
    unusual = model.whitespace_as_suffix or not model.escape_whitespaces
    if unusual or model.kind not in (spm.UNIGRAM, spm.BPE):
        raise UnsupportedModelError(
            f"{path} is a SentencePiece model of kind {model.kind} with whitespace_as_suffix="
            f"{model.whitespace_as_suffix}, escape_whitespaces={model.escape_whitespaces}; "
            "expected Unigram (1) or BPE (2) with neither changed. Convert it to tokenizer.json."
        )
    if kind == "XLMRoberta" and model.kind == spm.UNIGRAM:
        return _xlm_roberta(model, path)
    if kind not in ("", "T5", "Llama") or path.name == "sentencepiece.bpe.model":
        raise unsupported_tokenizer(path, kind)
    tokenizer = _plain_sentencepiece(model)
    names = special_tokens(path.parent)
    config = read_json_if_there(path.parent / "tokenizer_config.json")
    if kind == "T5":
        set_template(tokenizer, f"$A:0 {names['eos']}:0", f"$B:0 {names['eos']}:0")
    elif kind == "Llama" and config.get("add_bos_token", True) and "bos" in names:
        set_template(tokenizer, f"{names['bos']}:0 $A:0", f"{names['bos']}:1 $B:1")
    return tokenizer


def _plain_sentencepiece(model: spm.SentencePiece) -> Tokenizer:
    """Return a tokenizer with SentencePiece's own ids.

    The library normalises grapheme clusters, SentencePiece single characters. As in transformers,
    they differ on a compatibility character that is followed by a combining mark.
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
    spell = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if model.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
        spell.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(spell)
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


def _xlm_roberta(model: spm.SentencePiece, path: Path) -> Tokenizer:
    """Return a tokenizer with XLM-R's ids, as in fairseq: four special tokens come first."""
    names = ROBERTA_NAMES | special_tokens(path.parent)
    specials = [names[name] for name in ("bos", "pad", "eos", "unk")]
    first, rest = model.pieces[:3], model.pieces[3:]
    twice = {piece.text for piece in rest} & {*specials, names["mask"]}
    if [piece.kind for piece in first] != [spm.UNKNOWN, spm.CONTROL, spm.CONTROL] or twice:
        raise CheckpointError(
            f"{path} starts with {[piece.text for piece in first]} and has {sorted(twice)} later; "
            "expected <unk>, <s>, </s> and no other special tokens, as in XLM-R. Check that "
            "tokenizer_class in tokenizer_config.json is right."
        )
    pieces = [(piece.text, piece.score) for piece in rest]
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
