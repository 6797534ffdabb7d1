"""BART for text generation."""

from typing import Any

from bart_fast.models.bart_backbone import BartBackbone
from bart_fast.models.seq_2_seq_lm import Seq2SeqLM


class BartSeq2SeqLM(Seq2SeqLM):
    """BART with a language-model head: reads one text and writes another.

    The encoder reads the source; the decoder predicts the next token from it and from the tokens
    so far. `generate()` writes answers with the sampler given to `compile()` (`"top_k"` unless the
    preset names another); `fit()` trains on pairs of texts.

    Args:
        backbone: a `BartBackbone`.
        preprocessor: a `BartSeq2SeqLMPreprocessor`, or `None`: inputs are then token arrays, for
            `generate()`, `fit()`, `evaluate()` and `predict()` alike. Defaults to `None`.
        compile: bool. Whether to compile with default arguments. Defaults to `True`.
        name: str. Shown by `summary()`. Defaults to `"bart_seq2_seq_lm"`.

    Call arguments:
        x: dict of four arrays, [batch, length] each: `encoder_token_ids`, `encoder_padding_mask`,
            `decoder_token_ids`, `decoder_padding_mask`. Returns logits
            [batch, decoder length, vocabulary].

    Examples:

    Write with the model that comes with the package:

    ```python
    bart_lm = bart_fast.models.BartSeq2SeqLM.from_preset("bart_tidy_en")
    bart_lm.generate("i has two apple")
    ```

    Choose another way of sampling, and give the beginning of the answer:

    ```python
    bart_lm.compile(sampler=bart_fast.samplers.BeamSampler(num_beams=4))
    bart_lm.generate({"encoder_text": "i has two apple", "decoder_text": "I have"})
    ```

    Train on pairs:

    ```python
    bart_lm.fit(
        x={"encoder_text": ["i has two apple"], "decoder_text": ["I have two apples."]},
        epochs=2,
    )
    ```

    Start from random weights:

    ```python
    backbone = bart_fast.models.BartBackbone(
        vocabulary_size=100,
        num_layers=2,
        num_heads=2,
        hidden_dim=16,
        intermediate_dim=32,
        max_sequence_length=12,
    )
    bart_lm = bart_fast.models.BartSeq2SeqLM(backbone)
    bart_lm.summary()
    ```

    Reference:
        Lewis et al., 2019, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language
        Generation, Translation, and Comprehension".
    """

    def __init__(
        self,
        backbone: BartBackbone,
        preprocessor: Any = None,
        compile: bool = True,
        *,
        name: str = "bart_seq2_seq_lm",
    ):
        super().__init__(backbone, preprocessor, compile, name=name)
