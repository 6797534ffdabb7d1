"""OpenVINO: optimum-intel's export with the caches inside the model, and weights of 8 bits."""

from pathlib import Path

import numpy as np

from comparison.engines.loops import GraphEngine
from comparison.inputs import Rows, padded

PADDING = 1


class Engine(GraphEngine):
    title = "OpenVINO"
    packages = ("openvino", "optimum", "nncf", "transformers", "torch")
    distributions = ("openvino", "optimum-intel", "nncf")
    precisions = ("float32", "bfloat16", "int8")
    note = "int8 has weights of 8 bits, and computes in what the runtime chooses for the processor"

    @classmethod
    def convert(cls, model: Path, precision: str, folder: Path) -> None:
        from optimum.intel import OVModelForSeq2SeqLM

        converted = OVModelForSeq2SeqLM.from_pretrained(
            str(model), export=True, compile=False, load_in_8bit=precision == "int8"
        )
        converted.save_pretrained(str(folder))

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        import openvino

        core = openvino.Core()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if precision == "float32":
            # Caches are of 8 bits by default.
            settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        elif precision == "bfloat16":
            settings["INFERENCE_PRECISION_HINT"] = "bf16"
        self.encoder, self.decoder = (
            core.compile_model(
                str(folder / f"openvino_{part}_model.xml"), "CPU", settings
            ).create_infer_request()
            for part in ("encoder", "decoder")
        )
        self.given: dict[str, np.ndarray] = {}

    def encode(self, rows: Rows) -> list[np.ndarray]:
        ids, mask = padded(rows, PADDING)
        states = self._encode(ids, mask)
        return [each[: len(row)].copy() for each, row in zip(states, rows, strict=True)]

    def _encode(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.encoder.infer({"input_ids": ids, "attention_mask": mask}, share_inputs=True)
        return self.encoder.get_tensor("last_hidden_state").data

    def start(self, ids: np.ndarray, mask: np.ndarray, copies: int) -> None:
        states = self._encode(ids, mask)
        self.given = {
            "encoder_hidden_states": states.repeat(copies, 0),
            "encoder_attention_mask": mask.repeat(copies, 0),
        }
        self.decoder.reset_state()

    def step(self, tokens: np.ndarray, order: np.ndarray | None) -> np.ndarray:
        order = np.arange(len(tokens)) if order is None else order
        inputs = {"input_ids": tokens[:, None], "beam_idx": order.astype(np.int32), **self.given}
        self.decoder.infer(inputs, share_inputs=True)
        return self.decoder.get_tensor("logits").data[:, -1]
