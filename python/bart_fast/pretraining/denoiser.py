"""Noise on texts, as in BART's pre-training."""

from itertools import chain
from typing import Any

import numpy as np

from bart_fast._random import draw_seed
from bart_fast._texts import as_texts
from bart_fast._validation import (
    argument_error,
    check_flag,
    check_int,
    check_positive_float,
    check_probability,
    check_seed,
    check_text,
)
from bart_fast.pretraining import noise as kinds

# How tokens begin that begin a word: byte-level BPE, sentencepiece.
_WORD_STARTS = ("Ġ", "Ċ", "▁")


class Denoiser:
    """Makes noisy texts, from which a model learns to write the texts themselves.

    The defaults are those of bart-large: 30 % of the words of each text in spans, each replaced by
    one mask, and all its sentences in another order. The noise of a text depends on the seed, the
    epoch and the number of the text, and on nothing else: neither on batches nor on other texts.

    Args:
        tokenizer: a `BartTokenizer` or `UnigramTokenizer` that has `mask_token`.
        text_infilling: float from 0 to 1. Share of the words that spans cover. Defaults to 0.3.
        poisson_lambda: float above 0. Mean length of a span, in words; one of length 0 is a mask
            that stands for nothing. Defaults to 3.0.
        sentence_permutation: float from 0 to 1. Share of the sentences that change places. Defaults
            to 1.0.
        token_masking: float from 0 to 1. Share of the tokens that become masks. Defaults to 0.0.
        token_deletion: float from 0 to 1. Share of the tokens that are left out. Defaults to 0.0.
        document_rotation: float from 0 to 1. How often a text begins with a token chosen at random.
            Defaults to 0.0.
        whole_words: bool. Whether spans are of words rather than of tokens. Defaults to `True`.
        mask_token: str. Defaults to `"<mask>"`.
        seed: int. Defaults to `None`: drawn, or what `bart_fast.set_random_seed` says.

    Raises:
        ValueError: the tokenizer has no such token, or a value is out of range.

    Example:

    ```python
    from bart_fast.pretraining import Denoiser

    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<mask>": 3, "Ġ": 4, "a": 5, "b": 6, ".": 7}
    tokenizer = bart_fast.models.BartTokenizer(vocabulary, merges=[])
    denoiser = Denoiser(tokenizer, seed=7)
    noisy, ids = denoiser.noise("a ab. b ba.", index=0)
    assert 3 in noisy and denoiser.noise("a ab. b ba.", index=0) == (noisy, ids)
    ```

    Reference:
        Lewis et al., 2019, "BART: Denoising Sequence-to-Sequence Pre-training" (arXiv:1910.13461),
        section 2.2; the order of the kinds of noise is fairseq's.
    """

    def __init__(
        self,
        tokenizer: Any,
        text_infilling: float = 0.3,
        poisson_lambda: float = 3.0,
        sentence_permutation: float = 1.0,
        token_masking: float = 0.0,
        token_deletion: float = 0.0,
        document_rotation: float = 0.0,
        whole_words: bool = True,
        mask_token: str = "<mask>",
        seed: int | None = None,
    ):
        if not hasattr(tokenizer, "_ragged_ids"):
            raise argument_error("tokenizer", "must be a `BartTokenizer` or its like", tokenizer)
        self.tokenizer = tokenizer
        self.text_infilling = check_probability("text_infilling", text_infilling)
        self.poisson_lambda = check_positive_float("poisson_lambda", poisson_lambda)
        self.sentence_permutation = check_probability("sentence_permutation", sentence_permutation)
        self.token_masking = check_probability("token_masking", token_masking)
        self.token_deletion = check_probability("token_deletion", token_deletion)
        self.document_rotation = check_probability("document_rotation", document_rotation)
        self.whole_words = check_flag("whole_words", whole_words)
        self.mask_token = check_text("mask_token", mask_token)
        self.seed = draw_seed() if seed is None else check_seed("seed", seed)
        vocabulary = tokenizer.get_vocabulary()
        if mask_token not in set(vocabulary):
            raise argument_error(
                "mask_token",
                f"must be a token of the tokenizer, which has {len(vocabulary)}",
                mask_token,
                "add it to the vocabulary, and its row with `resize_token_embeddings()`",
            )
        self._mask = tokenizer.token_to_id(mask_token)
        self._starts: dict[int, bool] = {}

    def __call__(
        self, texts: Any, epoch: int = 0, first_index: int = 0
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Noisy and true token ids of several texts, without markers such as `<s>`.

        Args:
            texts: a list or array of strings.
            epoch: int. Each has other noise. Defaults to 0.
            first_index: int. The number of the first text. Defaults to 0.

        Returns:
            Two lists of lists of ids.
        """
        texts, batched = as_texts("texts", texts)
        if not batched:
            raise argument_error("texts", "must be a list of texts", texts[0], "put it into a list")
        check_int("first_index", first_index, 0)
        pairs = [self.noise(text, first_index + i, epoch) for i, text in enumerate(texts)]
        return [noisy for noisy, _ in pairs], [ids for _, ids in pairs]

    def noise(self, text: str, index: int = 0, epoch: int = 0) -> tuple[list[int], list[int]]:
        """Noisy and true token ids of a text, without markers.

        Args:
            text: str.
            index: int. Its number among the texts; others have other noise. Defaults to 0.
            epoch: int. Defaults to 0.

        Returns:
            Two lists of ids.
        """
        check_text("text", text)
        # From 1: a stream of two numbers is that of the same two and a zero.
        stream = [self.seed, check_int("epoch", epoch, 0), check_int("index", index, 0) + 1]
        rng = np.random.default_rng(stream)
        permuted = text
        if self.sentence_permutation:
            permuted = kinds.permute_sentences(text, self.sentence_permutation, rng)
        ids, noisy = self.tokenizer._ragged_ids([text, permuted])
        return self._changed(noisy, rng), ids

    def _changed(self, ids: list[int], rng: np.random.Generator) -> list[int]:
        """What happens to tokens, in fairseq's order."""
        if self.text_infilling:
            units = self._units(ids)
            share, length = self.text_infilling, self.poisson_lambda
            ids = list(chain.from_iterable(kinds.infill(units, share, length, self._mask, rng)))
        if self.token_masking:
            ids = kinds.mask_tokens(ids, self.token_masking, self._mask, rng)
        if self.token_deletion:
            ids = kinds.delete_tokens(ids, self.token_deletion, rng)
        if self.document_rotation and rng.random() < self.document_rotation:
            ids = kinds.rotate(ids, rng)
        return ids

    def _units(self, ids: list[int]) -> kinds.Units:
        """Words, or single tokens."""
        units: kinds.Units = []
        for token in ids:
            if not units or not self.whole_words or self._begins_word(token):
                units.append([])
            units[-1].append(token)
        return units

    def _begins_word(self, token: int) -> bool:
        if token not in self._starts:
            self._starts[token] = self.tokenizer.id_to_token(token).startswith(_WORD_STARTS)
        return self._starts[token]
