"""Measures a model of bart-base's sizes on a card, beside transformers on torch if that is there.

    python benches/card.py [--device cuda] [--json FILE] [--tiny]

Weights are random, no token ends an answer, every number is the best of a few. A line says what it
was measured on. `--tiny` tries the program itself, with sizes that say nothing about a card.

Correctness on a card is for the tests:
`BART_FAST_DEVICE=cuda pytest tests/golden tests/test_devices.py`.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bart_fast
from bart_fast.models import BartBackbone, BartSeq2SeqLM

# Vocabulary, layers, heads, width, inner width, positions.
BASE = (50265, 6, 12, 768, 3072, 1026)
TINY = (101, 2, 2, 32, 64, 66)
# Products of dense bfloat16 that a card of this name does a second, as its maker says.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L4": 121e12}
START = 2
REPEATS = 5


def best(work: Callable[[], object]) -> float:
    """Seconds, after two runs that do not count."""
    times = []
    for run in range(REPEATS + 2):
        start = time.perf_counter()
        work()
        if run > 1:
            times.append(time.perf_counter() - start)
    return min(times)


class Sizes:
    """How much is measured."""

    def __init__(self, tiny: bool):
        self.model = TINY if tiny else BASE
        self.source, self.new = (16, 8) if tiny else (512, 128)
        self.rows, self.batch = (3, 2) if tiny else (64, 32)
        self.training = (12, 6) if tiny else (256, 128)

    def ids(self, *shape: int) -> np.ndarray:
        return np.random.default_rng(0).integers(4, self.model[0], shape).astype(np.int32)


class Ours:
    """bart-fast."""

    def __init__(self, folder: Path, device: str, sizes: Sizes):
        self.sizes, self.device = sizes, device
        self.model = BartSeq2SeqLM.from_preset(
            folder, dtype="bfloat16", device=device, preprocessor=None
        )
        self.folder = folder

    def _inputs(self, source: np.ndarray) -> dict[str, np.ndarray]:
        targets = np.full((len(source), 1 + self.sizes.new), START, np.int32)
        mask = np.zeros(targets.shape, bool)
        mask[:, 0] = True
        return {
            "encoder_token_ids": source,
            "encoder_padding_mask": np.ones(source.shape, bool),
            "decoder_token_ids": targets,
            "decoder_padding_mask": mask,
        }

    def generate(self, source: np.ndarray, beams: int) -> None:
        sampler = "greedy" if beams == 1 else bart_fast.samplers.BeamSampler(beams)
        self.model.compile(sampler=sampler)
        self.model.generate(self._inputs(source), stop_token_ids=None)

    def encode(self, source: np.ndarray) -> None:
        self.model.backbone._model.encode(source, np.ones(source.shape, bool))

    def trainer(self) -> Callable[[], object]:
        model = BartSeq2SeqLM.from_preset(
            self.folder, dtype="mixed_bfloat16", device=self.device, preprocessor=None
        )
        model.compile(optimizer=bart_fast.optimizers.Adam(1e-5))
        source, target = (self.sizes.ids(self.sizes.batch, n) for n in self.sizes.training)
        x = {
            "encoder_token_ids": source,
            "encoder_padding_mask": np.ones(source.shape, bool),
            "decoder_token_ids": target,
            "decoder_padding_mask": np.ones(target.shape, bool),
        }
        return lambda: model.train_on_batch(x, target)


class Torch:
    """transformers' model, eager, with torch's own attention."""

    def __init__(self, folder: Path, device: str, sizes: Sizes):
        import torch
        from transformers import BartForConditionalGeneration

        self.torch, self.device, self.sizes = torch, device, sizes

        def load(dtype):
            model = BartForConditionalGeneration.from_pretrained(folder, dtype=dtype)
            settings = model.generation_config
            settings.eos_token_id = settings.forced_eos_token_id = None
            settings.forced_bos_token_id = None
            settings.decoder_start_token_id, settings.pad_token_id = START, 1
            return model.to(device)

        self.load = load
        self.model = load(torch.bfloat16).eval()

    def _ids(self, array: np.ndarray):
        return self.torch.from_numpy(array.astype(np.int64)).to(self.device)

    def _wait(self) -> None:
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()

    def generate(self, source: np.ndarray, beams: int) -> None:
        new = self.sizes.new
        call = {"num_beams": beams, "do_sample": False, "early_stopping": False}
        with self.torch.inference_mode():
            self.model.generate(self._ids(source), min_new_tokens=new, max_new_tokens=new, **call)
        self._wait()

    def encode(self, source: np.ndarray) -> None:
        with self.torch.inference_mode():
            self.model.get_encoder()(self._ids(source))
        self._wait()

    def trainer(self) -> Callable[[], object]:
        torch = self.torch
        model = self.load(torch.float32).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-5, fused=True)
        source, target = (
            self._ids(self.sizes.ids(self.sizes.batch, n)) for n in self.sizes.training
        )

        def step() -> None:
            with torch.autocast(self.device.split(":")[0], dtype=torch.bfloat16):
                loss = model(source, decoder_input_ids=target, labels=target).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            self._wait()

        return step


def encoder_operations(sizes: Sizes) -> float:
    """Multiplications and additions of the encoder's products for `rows` sources."""
    _, layers, _, width, inner, _ = sizes.model
    tokens = sizes.rows * sizes.source
    return 2.0 * tokens * layers * (4 * width**2 + 2 * width * inner + 2 * sizes.source * width)


def measure(engine: Ours | Torch, sizes: Sizes) -> dict[str, float]:
    """All numbers of one engine, by their names."""
    one, many = sizes.ids(1, sizes.source), sizes.ids(sizes.rows, sizes.source)
    return {
        "1 row, ms a token": 1e3 * best(lambda: engine.generate(one, 1)) / sizes.new,
        f"{sizes.rows} rows, tokens a second": sizes.rows
        * sizes.new
        / best(lambda: engine.generate(many, 1)),
        "4 beams, ms a step": 1e3 * best(lambda: engine.generate(one, 4)) / sizes.new,
        "encoder, TFLOP a second": encoder_operations(sizes)
        / best(lambda: engine.encode(many))
        / 1e12,
        "training step, ms": 1e3 * best(engine.trainer()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    sizes = Sizes(arguments.tiny)
    names = {each.device.removesuffix(":0"): each.name for each in bart_fast.devices()}
    device = arguments.device.removesuffix(":0")
    print(f"on {names.get(device, device)}, {time.strftime('%Y-%m-%d')}")
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        bart_fast.set_random_seed(0)
        vocabulary, layers, heads, width, inner, positions = sizes.model
        backbone = BartBackbone(
            vocabulary, layers, heads, width, inner, max_sequence_length=positions, device="cpu"
        )
        BartSeq2SeqLM(backbone).export_to_transformers(model)
        for engine in (Ours, Torch):
            try:
                found[engine.__name__] = measure(engine(model, device, sizes), sizes)
            except ImportError as error:
                print(f"without {engine.__name__.lower()}: {error}")
    peak = next((peak for name, peak in PEAKS.items() if name in names.get(device, "")), None)
    for name in found["Ours"]:
        line = "  ".join(
            f"{engine.lower()} {values[name]:,.2f}" for engine, values in found.items()
        )
        share = found["Ours"][name] * 1e12 / peak if peak and "TFLOP" in name else None
        print(f"{name}: {line}" + (f"  ({share:.0%} of the peak)" if share else ""))
    if arguments.json:
        arguments.json.write_text(json.dumps({"device": names.get(device), **found}, indent=1))


if __name__ == "__main__":
    main()
