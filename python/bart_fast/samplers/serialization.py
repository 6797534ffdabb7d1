"""The registry of samplers: names, configs, and back."""

from collections.abc import Callable, Mapping
from typing import Any

from bart_fast._validation import argument_error
from bart_fast.samplers.beam_sampler import BeamSampler
from bart_fast.samplers.contrastive_sampler import ContrastiveSampler
from bart_fast.samplers.greedy_sampler import GreedySampler
from bart_fast.samplers.preset_sampler import PresetSampler
from bart_fast.samplers.random_sampler import RandomSampler
from bart_fast.samplers.sampler import Sampler
from bart_fast.samplers.top_k_sampler import TopKSampler
from bart_fast.samplers.top_p_sampler import TopPSampler

# A new sampler is its own file and one line here.
_SAMPLERS: dict[str, type[Sampler]] = {
    "beam": BeamSampler,
    "contrastive": ContrastiveSampler,
    "greedy": GreedySampler,
    "preset": PresetSampler,
    "random": RandomSampler,
    "top_k": TopKSampler,
    "top_p": TopPSampler,
}
_CLASSES = {cls.__name__: cls for cls in _SAMPLERS.values()}


def serialize(sampler: Sampler) -> dict[str, Any]:
    """`{"class_name": ..., "config": ..., ...}`, in the form that Keras writes.

    Raises:
        ValueError: `sampler` is not a `Sampler`.
    """
    if not isinstance(sampler, Sampler):
        raise argument_error("sampler", "must be a `Sampler`", sampler)
    cls = type(sampler)
    known = _CLASSES.get(cls.__name__) is cls
    # Keras looks a built-in class up by the module of its own package.
    module = cls.__module__.replace("bart_fast.", "keras_hub.src.") if known else cls.__module__
    return {
        "module": module,
        "class_name": cls.__name__,
        "config": sampler.get_config(),
        "registered_name": f"keras_hub>{cls.__name__}" if known else cls.__name__,
    }


def deserialize(
    config: str | Mapping[str, Any], custom_objects: Mapping[str, type[Sampler]] | None = None
) -> Sampler:
    """The sampler that `serialize()` described, or the one of a given name.

    Args:
        config: dict with `class_name` and `config`, or a name such as `"top_k"`.
        custom_objects: classes of your own by name.

    Raises:
        ValueError: the name is unknown, or `config` has no `class_name`.
    """
    if custom_objects is not None and not isinstance(custom_objects, Mapping):
        raise argument_error("custom_objects", "must be a dict of classes", custom_objects)
    if isinstance(config, str):
        name, arguments = config, {}
    elif isinstance(config, Mapping) and isinstance(config.get("class_name"), str):
        name, arguments = config["class_name"], dict(config.get("config") or {})
    else:
        raise argument_error(
            "config", "must be a sampler's name or a dict with `class_name` and `config`", config
        )
    short = name.rsplit(">", 1)[-1]
    cls = (custom_objects or {}).get(short) or _SAMPLERS.get(short) or _CLASSES.get(short)
    if cls is None:
        known = ", ".join(f'"{each}"' for each in _SAMPLERS)
        raise ValueError(
            f"`sampler`: unknown sampler {name!r}. Known: {known}.\n"
            "hint: pass an instance of your own `bart_fast.samplers.Sampler`"
        )
    return cls.from_config(arguments)


def get(identifier: Any) -> Sampler | Callable[..., Any] | None:
    """A sampler from a name, a config, a class, or a sampler itself; `None` stays `None`.

    Example:

    >>> bart_fast.samplers.get("greedy").get_config()
    {'temperature': 1.0}

    Raises:
        ValueError: the identifier is of another kind, or an unknown name.
    """
    if identifier is None:
        return None
    if isinstance(identifier, (str, Mapping)):
        return deserialize(identifier)
    if isinstance(identifier, type) and issubclass(identifier, Sampler):
        return identifier()
    if callable(identifier):
        return identifier
    raise argument_error(
        "sampler", "must be a name, a config, or an instance of a `Sampler`", identifier
    )
