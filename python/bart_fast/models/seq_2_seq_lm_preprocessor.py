"""The base class of preprocessors for sequence-to-sequence language models."""

from bart_fast.models.preprocessor import Preprocessor


class Seq2SeqLMPreprocessor(Preprocessor):
    """Base class of what turns texts into the token arrays of a `Seq2SeqLM`, and back.

    Use `BartSeq2SeqLMPreprocessor`, or load that of any preset with
    `Seq2SeqLMPreprocessor.from_preset()`, which returns the right class. Preprocessors can be
    copied and pickled.
    """
