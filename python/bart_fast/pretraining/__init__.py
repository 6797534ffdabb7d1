"""BART's pre-training: noise on texts, and the data set in which a model learns to undo it."""

from bart_fast.pretraining.denoiser import Denoiser
from bart_fast.pretraining.denoising_dataset import DenoisingDataset

__all__ = ["Denoiser", "DenoisingDataset"]
