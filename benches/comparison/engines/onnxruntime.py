"""ONNX Runtime: optimum's export, dynamic quantisation, caches kept as the runtime's own values."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from comparison.engines.loops import GraphEngine
from comparison.inputs import Rows, padded

PADDING = 1
PARTS = ("encoder_model", "decoder_model", "decoder_with_past_model")


class Engine(GraphEngine):
    title = "ONNX Runtime"
    packages = ("onnxruntime", "onnx", "optimum", "transformers", "torch")
    distributions = ("onnxruntime", "onnx", "optimum-onnx")
    precisions = ("float32", "int8")
    note = "the first step has a decoder of its own, so that the others need not ask which they are"

    @classmethod
    def convert(cls, model: Path, precision: str, folder: Path) -> None:
        exported = folder if precision == "float32" else folder / "exported"
        _export(model, exported)
        if precision == "int8":
            _quantize(exported, folder)

    def __init__(self, model: Path, folder: Path, precision: str, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        self.sessions = {
            part: onnxruntime.InferenceSession(
                str(folder / f"{part}.onnx"), options, providers=["CPUExecutionProvider"]
            )
            for part in PARTS
        }
        self.names = {
            part: [output.name for output in session.get_outputs()]
            for part, session in self.sessions.items()
        }
        self.value = onnxruntime.OrtValue.ortvalue_from_numpy
        self.cache: dict[str, Any] = {}
        self.given: dict[str, Any] = {}

    def encode(self, rows: Rows) -> list[np.ndarray]:
        ids, mask = padded(rows, PADDING)
        [states] = self.sessions["encoder_model"].run(
            None, {"input_ids": ids, "attention_mask": mask}
        )
        return [each[: len(row)] for each, row in zip(states, rows, strict=True)]

    def start(self, ids: np.ndarray, mask: np.ndarray, copies: int) -> None:
        [states] = self.sessions["encoder_model"].run(
            None, {"input_ids": ids, "attention_mask": mask}
        )
        self.given = {
            "encoder_hidden_states": self.value(states.repeat(copies, 0)),
            "encoder_attention_mask": self.value(mask.repeat(copies, 0)),
        }
        self.cache = {}

    def step(self, tokens: np.ndarray, order: np.ndarray | None) -> np.ndarray:
        part = PARTS[2] if self.cache else PARTS[1]
        given = {**self.given, "input_ids": self.value(tokens[:, None])}
        if self.cache:
            del given["encoder_hidden_states"]
        if order is not None and not np.array_equal(order, np.arange(len(order))):
            self._reorder(order)
        names = self.names[part]
        values = self.sessions[part].run_with_ort_values(names, {**given, **self.cache})
        outputs = dict(zip(names, values, strict=True))
        scores = outputs.pop("logits").numpy()[:, -1]
        # Keys and values of the source come from the first step only, and stay.
        self.cache.update(
            {name.replace("present", "past_key_values"): kept for name, kept in outputs.items()}
        )
        return scores

    def _reorder(self, order: np.ndarray) -> None:
        for name, kept in self.cache.items():
            # All beams have one source.
            if ".decoder." in name:
                self.cache[name] = self.value(kept.numpy()[order])


def _export(model: Path, folder: Path) -> None:
    from optimum.exporters.onnx import main_export

    main_export(
        str(model),
        str(folder),
        task="text2text-generation-with-past",
        no_post_process=True,  # a decoder for the first step and one for the others
        do_validation=False,
        local_files_only=True,
    )


def _quantize(exported: Path, folder: Path) -> None:
    """As the documentation says for processors with 8-bit dot products: symmetric, by channel."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = exported / "prepared.onnx"
    for part in PARTS:
        quant_pre_process(exported / f"{part}.onnx", prepared, skip_symbolic_shape=True)
        quantize_dynamic(
            prepared, folder / f"{part}.onnx", per_channel=True, weight_type=QuantType.QInt8
        )
    shutil.rmtree(exported)
