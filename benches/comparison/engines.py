"""The two implementations that are measured, behind the same few methods.

A method named as a pass does all of it and returns a result that the other engine must equal.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np

from comparison.sizes import Inputs, masked

LEARNING_RATE = 1e-5
# So small that its place in the formula, in which Keras and torch differ, does not matter.
ADAM_EPSILON = 1e-12


class Ours:
    """bart-fast, by its Python interface."""

    def __init__(self, folder: Path, threads: int):
        import bart_fast

        bart_fast.set_num_threads(threads)
        self.model = bart_fast.BartSeq2SeqLM.from_preset(str(folder))
        self.model.compile(
            optimizer=bart_fast.optimizers.Adam(LEARNING_RATE, epsilon=ADAM_EPSILON),
            sampler="greedy",
        )

    @staticmethod
    def versions() -> str:
        import bart_fast

        return f"bart-fast {bart_fast.__version__}"

    def encode(self, ids: np.ndarray) -> np.ndarray:
        """The encoder's output [1, length, width] (the interface gives it with the decoder's)."""
        return self.model.backbone._model.encode(ids, np.ones(ids.shape, bool))

    def generate(self, source: np.ndarray, new_tokens: int) -> np.ndarray:
        """Greedy ids [1, 1 + new_tokens], start token first."""
        # Without guesses: a token is to be a pass, and random weights say the same again and again.
        answer = self.model.generate(
            masked("encoder", source),
            stop_token_ids=None,
            max_new_tokens=new_tokens,
            speculative=None,
        )
        return answer["decoder_token_ids"]

    def train(self, inputs: Inputs) -> float:
        """One step of Adam; the loss before it."""
        return self.model.train_on_batch(inputs.batch, inputs.labels)[0]

    def evaluate(self, inputs: Inputs) -> float:
        """The loss of the batch."""
        return self.model.test_on_batch(inputs.batch, inputs.labels)[0]


class Torch:
    """Hugging Face's model on torch, as its documentation uses it."""

    def __init__(self, folder: Path, threads: int):
        os.environ["TRANSFORMERS_VERBOSITY"] = "error"
        import torch
        from transformers import BartForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        torch.set_num_threads(threads)
        self.torch = torch
        self.model = BartForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        self.model.eval()
        # No token ends an answer, and none is forced.
        settings = self.model.generation_config
        settings.eos_token_id = settings.forced_eos_token_id = settings.forced_bos_token_id = None
        self._optimizer: Any = None

    @staticmethod
    def versions() -> str:
        import torch
        import transformers

        return f"torch {torch.__version__}, transformers {transformers.__version__}"

    def encode(self, ids: np.ndarray) -> np.ndarray:
        torch = self.torch
        with torch.inference_mode():
            source = torch.from_numpy(ids)
            output = self.model.get_encoder()(source, attention_mask=torch.ones_like(source))
        return output.last_hidden_state.numpy()

    def generate(self, source: np.ndarray, new_tokens: int) -> np.ndarray:
        torch = self.torch
        with torch.inference_mode():
            ids = torch.from_numpy(source)
            answer = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                num_beams=1,
            )
        return answer.numpy()

    def train(self, inputs: Inputs) -> float:
        if self._optimizer is None:
            self._optimizer = self.torch.optim.Adam(
                self.model.parameters(), lr=LEARNING_RATE, eps=ADAM_EPSILON
            )
            self.model.train()
        self._optimizer.zero_grad()
        batch = {name: self.torch.from_numpy(each) for name, each in inputs.batch.items()}
        loss = self.model(
            input_ids=batch["encoder_token_ids"],
            attention_mask=batch["encoder_padding_mask"].long(),
            decoder_input_ids=batch["decoder_token_ids"],
            decoder_attention_mask=batch["decoder_padding_mask"].long(),
            labels=self.torch.from_numpy(inputs.labels.copy()),
        ).loss
        loss.backward()
        self._optimizer.step()
        return loss.item()


ENGINES = {"ours": Ours, "torch": Torch}
