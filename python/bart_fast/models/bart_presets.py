"""The presets with a name: what they are, and where they come from."""

import copy

# The keys are keras-hub's; `sources` is ours: where a preset may come from, best first.
backbone_presets = {
    "bart_tidy_en": {
        "metadata": {
            "description": (
                "Small BART model that restores capitals, punctuation, spacing and spelling of "
                "English text. Part of this package."
            ),
            "params": 13239296,
            "path": "bart",
        },
        "sources": ["package://bart_tidy_en"],
    },
    "bart_base_en": {
        "metadata": {
            "description": (
                "BART with 6 encoder and 6 decoder layers for English with case, trained to "
                "restore noised books, encyclopedia articles, news and web pages."
            ),
            "params": 139417344,
            "path": "bart",
        },
        "kaggle_handle": "kaggle://keras/bart/keras/bart_base_en/3",
        "sources": ["kaggle://keras/bart/keras/bart_base_en/3", "hf://facebook/bart-base"],
    },
    "bart_large_en": {
        "metadata": {
            "description": (
                "BART with 12 encoder and 12 decoder layers for English with case, trained to "
                "restore noised books, encyclopedia articles, news and web pages."
            ),
            "params": 406287360,
            "path": "bart",
        },
        "config": {
            "vocabulary_size": 50265,
            "num_layers": 12,
            "num_heads": 16,
            "hidden_dim": 1024,
            "intermediate_dim": 4096,
            "dropout": 0.1,
            "max_sequence_length": 1024,
        },
        "kaggle_handle": "kaggle://keras/bart/keras/bart_large_en/3",
        "sources": ["kaggle://keras/bart/keras/bart_large_en/3", "hf://facebook/bart-large"],
    },
    "bart_large_en_cnn": {
        "metadata": {
            "description": "`bart_large_en` fine-tuned to summarise news (CNN and Daily Mail).",
            "params": 406287360,
            "path": "bart",
        },
        "config": {
            "vocabulary_size": 50264,
            "num_layers": 12,
            "num_heads": 16,
            "hidden_dim": 1024,
            "intermediate_dim": 4096,
            "dropout": 0.1,
            "max_sequence_length": 1024,
        },
        "kaggle_handle": "kaggle://keras/bart/keras/bart_large_en_cnn/3",
        "sources": [
            "kaggle://keras/bart/keras/bart_large_en_cnn/3",
            "hf://facebook/bart-large-cnn",
        ],
    },
}


class _PresetsProperty:
    """`presets` of a model class: the named presets it can load, by name."""

    def __get__(self, instance: object, owner: type) -> dict[str, dict]:
        return copy.deepcopy(backbone_presets)


presets_property = _PresetsProperty()
