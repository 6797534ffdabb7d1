"""Tokenizers, under the names of `keras_hub.tokenizers`."""

from bart_fast.models.bart_tokenizer import BartTokenizer
from bart_fast.models.tokenizer import Tokenizer

__all__ = ["BartTokenizer", "Tokenizer"]
