"""The mini's tokenizer: one token a character, bytes for the rest, the official special tokens.

Characters rather than pieces of words: at equal compute a small decoder reads them with fewer
errors. Compression figures are stated in tokens of a common BPE (evaluate), so that they compare.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from scripts.make_random_checkpoint import BOS, EOS, MARKUP, PAD
from scripts.train_mini.fonts import ALPHABET

BOS_ID, EOS_ID, PAD_ID = 0, 1, 2


def build_tokenizer() -> Tokenizer:
    """A byte-level BPE whose only merges join the bytes of one character of the alphabet."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    names = [BOS, EOS, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges: list[tuple[str, str]] = []
    for character in ALPHABET:
        ((spelled, _),) = byte_level.pre_tokenize_str(character)
        for cut in range(1, len(spelled)):
            pair = (spelled[:cut], spelled[cut])
            if pair not in merges:
                merges.append(pair)
                names.append(spelled[: cut + 1])
    names += MARKUP
    vocab = {name: index for index, name in enumerate(names)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in (BOS, EOS, PAD, *MARKUP)]
    )
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """Write tokenizer.json and what transformers wants beside it."""
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "tokenizer_class": "LlamaTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config | named, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
