"""CTranslate2, by its converter of Hugging Face's models and its `Translator`."""

from pathlib import Path
from typing import Any

import numpy as np

from comparison.engines.base import BaseEngine
from comparison.inputs import Rows

ENCODER = "encoder"


class _Ids:
    """Stands for a tokenizer: the name of a token is its id."""

    bos_token, pad_token, eos_token, unk_token = "0", "1", "2", "3"

    def __init__(self, size: int):
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        return {str(i): i for i in range(self.size)}

    def convert_ids_to_tokens(self, token: int) -> str:
        return str(token)


class Engine(BaseEngine):
    title = "CTranslate2"
    packages = ("ctranslate2", "transformers", "torch")
    distributions = ("ctranslate2",)
    precisions = ("float32", "int8")

    @classmethod
    def convert(cls, model: Path, precision: str, folder: Path) -> None:
        from ctranslate2.converters import TransformersConverter
        from ctranslate2.specs import transformer_spec
        from transformers import AutoConfig

        vocabulary = _Ids(AutoConfig.from_pretrained(model).vocab_size)

        class Converter(TransformersConverter):
            def load_tokenizer(self, *_: object, **__: object) -> _Ids:
                return vocabulary

        class EncoderConverter(Converter):
            def _load(self) -> object:
                whole = super()._load()
                spec = transformer_spec.TransformerEncoderModelSpec(whole.encoder)
                spec.register_vocabulary([str(i) for i in range(vocabulary.size)])
                spec.config.unk_token = vocabulary.unk_token
                return spec

        quantization = None if precision == "float32" else precision
        Converter(str(model)).convert(str(folder), quantization=quantization, force=True)
        encoder = str(folder / ENCODER)
        EncoderConverter(str(model)).convert(encoder, quantization=quantization, force=True)

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        import ctranslate2

        self.settings = {
            "device": "cpu",
            "compute_type": precision,
            "inter_threads": 1,
            "intra_threads": threads,
        }
        self.folder = folder
        self.translator = ctranslate2.Translator(str(folder), **self.settings)
        self._encoder: Any = None

    def encode(self, rows: Rows) -> list[np.ndarray]:
        import ctranslate2

        if self._encoder is None:
            self._encoder = ctranslate2.Encoder(str(self.folder / ENCODER), **self.settings)
        output = self._encoder.forward_batch([row.tolist() for row in rows])
        states = np.asarray(output.last_hidden_state)
        return [each[: len(row)] for each, row in zip(states, rows, strict=True)]

    def greedy(self, rows: Rows, new_tokens: int) -> list[list[int]]:
        return self._translate(rows, new_tokens, beam_size=1)

    def beams(
        self, rows: Rows, new_tokens: int, beams: int, length_penalty: float, no_repeat: int
    ) -> list[list[int]]:
        return self._translate(
            rows,
            new_tokens,
            beam_size=beams,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat,
        )

    def _translate(self, rows: Rows, new_tokens: int, **settings: float) -> list[list[int]]:
        sources = [[str(token) for token in row] for row in rows]
        answers = self.translator.translate_batch(
            sources, max_decoding_length=new_tokens, min_decoding_length=new_tokens, **settings
        )
        return [[int(token) for token in answer.hypotheses[0]] for answer in answers]
