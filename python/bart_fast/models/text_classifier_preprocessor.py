"""The base class of preprocessors for text classifiers."""

from bart_fast.models.preprocessor import Preprocessor


class TextClassifierPreprocessor(Preprocessor):
    """Base class of what turns texts and pairs of texts into the token arrays of a
    `TextClassifier`.

    Use `BartTextClassifierPreprocessor`, or load that of any preset with
    `TextClassifierPreprocessor.from_preset()`, which returns the right class. Preprocessors can be
    copied and pickled.
    """
