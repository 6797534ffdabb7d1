"""Exact matches."""

import string

from bart_fast._validation import check_flag
from bart_fast.metrics.text_metric import TextMetric


class ExactMatch(TextMetric):
    """How often a text is the reference, letter for letter.

    Args:
        ignore_case: bool. Whether capitals and small letters are the same. Defaults to False.
        ignore_punctuation: bool. Whether the marks of ASCII are left out. Defaults to False.
        name: str. Defaults to `"exact_match"`.
        dtype: None or `"float32"`.

    Example:

    >>> from bart_fast.metrics import ExactMatch
    >>> ExactMatch(ignore_case=True)(["One.", "Two."], ["one.", "two"])
    0.5
    """

    direction = "up"
    _keys = ("matches",)

    def __init__(self, ignore_case=False, ignore_punctuation=False, name="exact_match", dtype=None):
        super().__init__(name, dtype)
        self.ignore_case = check_flag("ignore_case", ignore_case)
        self.ignore_punctuation = check_flag("ignore_punctuation", ignore_punctuation)

    def scores(self, reference, text):
        return {"matches": float(self._reduced(reference) == self._reduced(text))}

    def _reduced(self, text):
        if self.ignore_punctuation:
            text = text.translate(str.maketrans("", "", string.punctuation))
        return text.casefold() if self.ignore_case else text

    def _value(self, means):
        return means["matches"]

    def get_config(self):
        return {
            **super().get_config(),
            "ignore_case": self.ignore_case,
            "ignore_punctuation": self.ignore_punctuation,
        }
