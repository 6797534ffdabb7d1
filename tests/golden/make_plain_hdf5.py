"""Writes `plain.h5`: a dataset of every type that Keras' weight files have, and many in one group.

Run in this folder with h5py and numpy.
"""

import h5py
import numpy as np

values = np.arange(6).reshape(2, 3)
bfloat16 = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
with h5py.File("plain.h5", "w") as file:
    group = file.create_group("a")
    for name in ("float16", "float32", "float64", "int8"):
        group.create_dataset(name, data=values.astype(name))
    group.create_dataset("bfloat16", data=bfloat16.view("V2")).attrs["dtype"] = "bfloat16"
    for index in range(40):
        file.create_dataset(f"many/{index}", data=np.float32([index]))
