"""Hugging Face's model on torch, as its documentation uses it."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from comparison.engines.bart_fast import ADAM_EPSILON, LEARNING_RATE
from comparison.engines.base import BaseEngine
from comparison.inputs import Pairs, Rows, padded

PADDING = 1


class Engine(BaseEngine):
    title = "torch"
    packages = ("torch", "transformers")
    distributions = ("torch", "transformers")
    precisions = ("float32", "bfloat16", "int8")
    passes = ("encode", "greedy", "beams", "train")
    note = "int8 is torch's dynamic quantisation, done after loading"

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        import torch
        from transformers import BartForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        torch.set_num_threads(threads)
        self.torch = torch
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.model = BartForConditionalGeneration.from_pretrained(model, dtype=dtype)
        self.model.eval()
        # No token ends an answer, and none is forced.
        settings = self.model.generation_config
        settings.eos_token_id = settings.forced_eos_token_id = settings.forced_bos_token_id = None
        if precision == "int8":
            self.model = torch.ao.quantization.quantize_dynamic(
                self.model, {torch.nn.Linear}, dtype=torch.qint8
            )
        self._optimizer: Any = None

    def encode(self, rows: Rows) -> list[np.ndarray]:
        ids, mask = self._padded(rows)
        with self.torch.inference_mode():
            output = self.model.get_encoder()(ids, attention_mask=mask)
        states = output.last_hidden_state.float().numpy()
        return [each[: len(row)] for each, row in zip(states, rows, strict=True)]

    def greedy(self, rows: Rows, new_tokens: int) -> list[list[int]]:
        return self._generate(rows, new_tokens, num_beams=1)

    def beams(
        self, rows: Rows, new_tokens: int, beams: int, length_penalty: float, no_repeat: int
    ) -> list[list[int]]:
        return self._generate(
            rows,
            new_tokens,
            num_beams=beams,
            length_penalty=length_penalty,
            no_repeat_ngram_size=no_repeat,
        )

    def _generate(self, rows: Rows, new_tokens: int, **settings: float) -> list[list[int]]:
        ids, mask = self._padded(rows)
        with self.torch.inference_mode():
            answer = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                **settings,
            )
        return answer[:, 1:].tolist()

    def _padded(self, rows: Rows) -> tuple[Any, Any]:
        ids, mask = padded(rows, PADDING)
        return self.torch.from_numpy(ids), self.torch.from_numpy(mask)

    def train(self, pairs: Pairs) -> float:
        if self._optimizer is None:
            self._optimizer = self.torch.optim.Adam(
                self.model.parameters(), lr=LEARNING_RATE, eps=ADAM_EPSILON
            )
            self.model.train()
        self._optimizer.zero_grad()
        batch = {name: self.torch.from_numpy(each) for name, each in pairs.batch.items()}
        labels = pairs.labels.copy()
        if pairs.weights is not None:
            labels[pairs.weights == 0] = -100
        loss = self.model(
            input_ids=batch["encoder_token_ids"],
            attention_mask=batch["encoder_padding_mask"].long(),
            decoder_input_ids=batch["decoder_token_ids"],
            decoder_attention_mask=batch["decoder_padding_mask"].long(),
            labels=self.torch.from_numpy(labels),
        ).loss
        loss.backward()
        self._optimizer.step()
        return loss.item()
