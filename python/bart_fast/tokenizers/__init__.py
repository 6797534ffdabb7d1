"""Tokenizers, under the names of `keras_hub.tokenizers`."""

from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.tokenizer import Tokenizer
from bart_fast.models.unigram_tokenizer import UnigramTokenizer

__all__ = ["BartTokenizer", "Tokenizer", "UnigramTokenizer"]
