"""Measures bart-fast beside Hugging Face's torch model: see `compare.py`, the command.

`sizes` says what is computed and what it costs, `model` writes the model, `engines` are the two
implementations, `worker` runs one measurement in a process of its own, `report` writes the table.
"""
