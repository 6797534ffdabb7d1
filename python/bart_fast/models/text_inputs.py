"""What `generate()` takes as text, in one form."""

from collections.abc import Mapping
from typing import Any

from bart_fast._texts import as_texts
from bart_fast._validation import ENCODER_IDS, argument_error


class Texts:
    """String inputs, as lists: `encoder_text` and the prompts `decoder_text`."""

    def __init__(self, encoder_text: list[str], decoder_text: list[str], is_single: bool):
        self.encoder_text = encoder_text
        self.decoder_text = decoder_text
        self.is_single = is_single

    @classmethod
    def from_inputs(cls, inputs: Any) -> "Texts":
        """Checks a string, a list of strings, or a dict of these.

        Raises:
            ValueError: anything else, or as many prompts as there are no texts.
        """
        name = "encoder_text"
        if not isinstance(inputs, Mapping):
            name, inputs = "inputs", {"encoder_text": inputs}
        unknown = [repr(key) for key in inputs if key not in ("encoder_text", "decoder_text")]
        if unknown or "encoder_text" not in inputs:
            raise argument_error(
                "inputs",
                "must be a string, a list of strings, a dict with `encoder_text` and, if wanted, "
                "`decoder_text`, or a dict of token arrays",
                list(inputs),
            )
        encoder, batched = as_texts(name, inputs["encoder_text"])
        if inputs.get("decoder_text") is None:
            return cls(encoder, [""] * len(encoder), not batched)
        decoder, decoder_batched = as_texts("decoder_text", inputs["decoder_text"])
        if len(decoder) != len(encoder) or decoder_batched != batched:
            raise ValueError(
                "`decoder_text` must have one prompt for each `encoder_text`, both a string or "
                f"both lists. Received: {len(encoder)} texts and {len(decoder)} prompts."
            )
        return cls(encoder, decoder, not batched)


def is_token_arrays(inputs: Any) -> bool:
    """Whether `inputs` is meant as token arrays (and not as strings)."""
    return isinstance(inputs, Mapping) and ENCODER_IDS in inputs
