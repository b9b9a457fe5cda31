"""Prompts as the numbers that a text network takes: Hugging Face's tokenizers, as a pipeline's card names them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding
from tokenizers import Tokenizer as Reader

from protos.pipeline import Text, Tokenizer
from serving.backends import Array, LoadError


class Tokens(NamedTuple):
    """A prompt as rows [length] of a text network's inputs, by name; `cut` says how many tokens did not fit."""

    rows: dict[str, Array]
    cut: int


class Tokenizing:
    """The tokenizers of a pipeline.

    Attributes:
        digest: equal for equal tokenizers on equal inputs.
        largest: by input the largest number that it is fed.
    """

    def __init__(self, folder: Path, card: Path, text: Text) -> None:
        """Reads the files in `folder`; LoadError names the card's file, what was expected and what came."""
        self._of: Mapping[str, tuple[Tokenizer, Reader]] = {
            name: (each, _read(folder, card, name, each)) for name, each in text.tokenizers.items()
        }
        said = {name: (each.model_dump_json(), reader.to_str()) for name, (each, reader) in self._of.items()}
        self.digest = hashlib.sha256(repr(said).encode()).hexdigest()
        self.largest = {
            name: max(each.pad, *reader.get_vocab(with_added_tokens=True).values())
            for name, (each, reader) in self._of.items()
        }

    @property
    def lengths(self) -> dict[str, int]:
        """The length of a row of each input, masks included."""
        named = {name: each.length for name, (each, _) in self._of.items()}
        return named | {each.mask: each.length for each, _ in self._of.values() if each.mask is not None}

    def __call__(self, prompt: str) -> Tokens:
        """A prompt's rows, int64. A tokenizer is fast: some 10 us for ten words."""
        rows, cut = dict[str, Array](), 0
        for name, (card, reader) in self._of.items():
            encoded = reader.encode(prompt)
            rows[name] = np.asarray(encoded.ids, np.int64)
            if card.mask is not None:
                rows[card.mask] = np.asarray(encoded.attention_mask, np.int64)
            cut = max(cut, sum(map(_content, encoded.overflowing)))
        return Tokens(rows, cut)


def _content(encoded: Encoding) -> int:
    """How many tokens of a prompt are in an encoding, without those that begin, end and fill it up."""
    pairs = zip(encoded.attention_mask, encoded.special_tokens_mask, strict=True)
    return sum(there and not special for there, special in pairs)


def _read(folder: Path, card: Path, name: str, tokenizer: Tokenizer) -> Reader:
    where, file = f"{card}: pipeline.text.tokenizers.{name}", folder / tokenizer.file
    if Path(tokenizer.file).name != tokenizer.file:
        raise LoadError(f"{where}: file: expected a name in the version's folder, got {tokenizer.file!r}")
    try:
        reader: Reader = Reader.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        why = " ".join(str(error).split())
        raise LoadError(f"{where}: expected a tokenizer in {file}, got: {why}") from None
    try:
        reader.enable_truncation(tokenizer.length)
    except Exception as error:
        raise LoadError(f"{where}: length {tokenizer.length}: {error}") from None
    reader.enable_padding(length=tokenizer.length, pad_id=tokenizer.pad)
    if (came := len(reader.encode("a").ids)) != tokenizer.length:
        wanted = f"length {tokenizer.length}: expected room for tokens beside those that begin and end"
        raise LoadError(f"{where}: {wanted}, got {came} of them")
    return reader
