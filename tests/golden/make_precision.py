"""Records what keras-hub saves and computes in int8 and in bfloat16.

    KERAS_BACKEND=jax python make_precision.py SHARED/golden/keras_tiny

Made with keras-hub 0.32.0, keras 3.15.1 and jax 0.10.2, from the weights of `keras_tiny`. The
presets lie in `precision.npz` dataset by dataset, since HDF5 takes ten times their size.
"""

import json
import sys
import tempfile
from pathlib import Path

import h5py
import keras_hub
import numpy as np


def preset_arrays(folder: Path) -> dict[str, np.ndarray]:
    """`config.json` as text, and the datasets of the weights; bfloat16 as uint16."""
    config = json.loads((folder / "config.json").read_text())
    arrays = {"config": np.array(json.dumps(config))}

    def visit(path, item):
        if isinstance(item, h5py.Dataset):
            values = item[()]
            arrays[path] = values.view(np.uint16) if values.dtype.kind == "V" else values

    with h5py.File(folder / "model.weights.h5") as file:
        file.visititems(visit)
    return arrays


def outputs(backbone, x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Hidden states and logits."""
    hidden = backbone(x)
    last = hidden["decoder_sequence_output"]
    logits = backbone.token_embedding(last, reverse=True)
    both = {**hidden, "logits": logits}
    return {f"out/{name}": np.asarray(array, np.float32) for name, array in both.items()}


def main() -> None:
    source = sys.argv[1]
    golden = np.load(Path(source) / "golden.npz")
    x = {
        name.removeprefix("fwd_in/"): golden[name] for name in golden if name.startswith("fwd_in/")
    }
    recorded = {f"in/{name}": array for name, array in x.items()}
    for dtype in ("int8", "bfloat16"):
        # A backbone alone of an int8 preset is not read by keras-hub 0.32; whole models are.
        arguments = {} if dtype == "int8" else {"dtype": dtype}
        model = keras_hub.models.BartSeq2SeqLM.from_preset(source, **arguments)
        if dtype == "int8":
            model.backbone.quantize("int8")
        with tempfile.TemporaryDirectory() as folder:
            model.save_to_preset(folder)
            saved = preset_arrays(Path(folder))
            again = keras_hub.models.BartSeq2SeqLM.from_preset(folder, **arguments)
        arrays = {**saved, **outputs(again.backbone, x)}
        recorded |= {f"{dtype}/{name}": array for name, array in arrays.items()}
    np.savez_compressed(Path(__file__).with_name("precision.npz"), **recorded)


if __name__ == "__main__":
    main()
