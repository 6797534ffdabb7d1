"""Tokenizers, under the names of `keras_hub.tokenizers`."""

from bart_fast.models.bart_tokenizer import BartTokenizer

__all__ = ["BartTokenizer"]
