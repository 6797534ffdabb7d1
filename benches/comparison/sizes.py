"""The models that are measured."""

from bart_fast._costs import Size

__all__ = ["SIZES", "Size"]

SIZES = {
    "bart-base": Size(50265, 768, 6, 12, 3072, 1024),
    "bart-large": Size(50265, 1024, 12, 16, 4096, 1024),
    # The model inside the package, with its own weights.
    "bart_tidy_en": Size(8000, 256, 6, 8, 1024, 256),
    # For the tests: nothing is a multiple of a panel or a vector.
    "tiny": Size(103, 36, 2, 3, 70, 48),
}
