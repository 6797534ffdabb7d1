"""What all optimizers share: learning rate, weight decay, clipping, state."""

import json
import math
import numbers
import re
from collections.abc import Iterable, Mapping

import numpy as np

from bart_fast import _core
from bart_fast._validation import (
    argument_error,
    check_finite_float,
    check_flag,
    check_int,
    check_positive_float,
    check_probability,
    check_text,
)
from bart_fast.optimizers.schedules.learning_rate_schedule import LearningRateSchedule
from bart_fast.optimizers.schedules.serialization import deserialize as deserialize_schedule
from bart_fast.optimizers.schedules.serialization import serialize as serialize_schedule

_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")
# Constants of the rules that are no numbers.
_FLAGS = ("nesterov", "amsgrad", "centered", "relative_step")


class Optimizer:
    """Base class of the optimizers, with the arguments of Keras' base class.

    The formulas run in the compiled core, on the weights of the model that was compiled with the
    optimizer. Weight decay works as in Keras: before its update each step takes
    `weight * weight_decay * learning_rate` away from a weight.

    Args:
        learning_rate: float, a `schedules.LearningRateSchedule`, or a function without arguments
            that returns a float.
        weight_decay: float. None (default) for no decay.
        clipnorm: float. Largest norm of the gradient of each parameter.
        clipvalue: float. Largest size of each element of a gradient.
        global_clipnorm: float. Largest norm of all gradients together. Only one of the three can
            be set.
        use_ema: bool. Whether to keep the running mean of the weights (Polyak averaging), which
            takes their place at the end of `fit`. `callbacks.SwapEMAWeights` evaluates it
            meanwhile. Defaults to False.
        ema_momentum: float from 0 to 1. Share of the mean that a step keeps. Defaults to 0.99.
        ema_overwrite_frequency: int. Updates after which the mean takes the place of the weights
            in the middle of training. Defaults to `None`: at the end of `fit` only.
        loss_scale_factor: float. What `apply()` divides gradients by. In `fit` it changes nothing:
            sums are kept in float32, where scaling the loss and unscaling the gradient is idle.
        gradient_accumulation_steps: int, at least 2. Updates are made every so many batches, from
            the mean of their gradients.
        name: str.

    Raises:
        ValueError: an argument is unknown or has a value that cannot be used.
    """

    _rule: str  # Name of the formulas in the core; given by each subclass.

    def __init__(
        self,
        learning_rate,
        weight_decay=None,
        clipnorm=None,
        clipvalue=None,
        global_clipnorm=None,
        use_ema=False,
        ema_momentum=0.99,
        ema_overwrite_frequency=None,
        loss_scale_factor=None,
        gradient_accumulation_steps=None,
        name=None,
        **kwargs,
    ):
        if kwargs:
            raise ValueError(f"unknown argument(s) of {type(self).__name__}: {sorted(kwargs)}")
        if use_ema is not False and check_flag("use_ema", use_ema):
            check_probability("ema_momentum", ema_momentum)
            if ema_overwrite_frequency is not None:
                check_int("ema_overwrite_frequency", ema_overwrite_frequency, 1)
        if loss_scale_factor is not None:
            check_positive_float("loss_scale_factor", loss_scale_factor)
        if gradient_accumulation_steps is not None:
            check_int("gradient_accumulation_steps", gradient_accumulation_steps, 2)
        self.name = type(self).__name__.lower() if name is None else check_text("name", name)
        self.weight_decay = weight_decay
        self.clipnorm = clipnorm
        self.clipvalue = clipvalue
        self.global_clipnorm = global_clipnorm
        self.use_ema = bool(use_ema)
        self.ema_momentum = ema_momentum
        self.ema_overwrite_frequency = ema_overwrite_frequency
        self.loss_scale_factor = loss_scale_factor
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self._learning_rate = _check_learning_rate(learning_rate)
        self._excluded_names = frozenset()
        self._excluded_pattern = None
        self._core = None
        self._owner = None
        self._pending_state = None

    def _check_constants(self):
        """Lets the core check every value now, where the caller sees which one is wrong."""
        for name, value in self._rule_config().items():
            check = check_flag if name in _FLAGS else check_finite_float
            check(name, value)
        for name in ("weight_decay", *_CLIPPING):
            if getattr(self, name) is not None:
                check_finite_float(name, getattr(self, name))
        _core.Optimizer(self._core_config(()))

    def _rule_config(self):
        """Constants of the rule, by their names in Keras and in the core."""
        raise NotImplementedError

    def _core_config(self, excluded):
        config = {
            "class_name": self._rule,
            **self._rule_config(),
            "weight_decay": self.weight_decay,
            **{name: getattr(self, name) for name in _CLIPPING},
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            "exclude_from_weight_decay": sorted(excluded),
        }
        if self.use_ema:
            config["ema_momentum"] = self.ema_momentum
            config["ema_overwrite_frequency"] = self.ema_overwrite_frequency
        return json.dumps(config, default=float)

    @property
    def built(self):
        """bool. Whether the optimizer belongs to the parameters of a model."""
        return self._core is not None

    def serves(self, owner):
        """bool. Whether the optimizer was built for `owner`."""
        return self._core is not None and self._owner is owner

    def follow(self, before, owner):
        """Goes on with the same values in `owner`, if it was built for `before`."""
        if self.serves(before):
            self._owner = owner

    def start_anew(self):
        """Forgets the model it was built for, and all state of it."""
        self._core = self._owner = self._pending_state = None

    @property
    def iterations(self):
        """int. Updates made so far."""
        return self._batches // (self.gradient_accumulation_steps or 1)

    @property
    def _batches(self):
        """Gradients seen so far: what schedules count."""
        if self._core is not None:
            return self._core.iterations
        return int(self._pending_state["iterations"][0]) if self._pending_state else 0

    @property
    def learning_rate(self):
        """float. The learning rate of the next step. Can be set, unless it is a schedule."""
        rate = self._learning_rate
        if isinstance(rate, LearningRateSchedule):
            return float(rate(self._batches))
        return float(rate()) if callable(rate) else rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        new = _check_learning_rate(learning_rate)
        if isinstance(self._learning_rate, LearningRateSchedule) and not callable(new):
            raise TypeError(
                "`learning_rate` cannot be set: this optimizer was made with a "
                "`LearningRateSchedule`\nhint: make the optimizer with a float learning rate"
            )
        self._learning_rate = new

    def exclude_from_weight_decay(self, var_list=None, var_names=None):
        """Keeps some parameters from decaying. Call it before the first training step.

        Args:
            var_list: list of str. Full names of parameters, e.g. `"shared.weight"`.
            var_names: list of str. Patterns (regular expressions); a parameter with one of them in
                its name does not decay. Names end as in Keras: `kernel` and `bias` of a dense
                layer, `gamma` and `beta` of a layer norm, `embeddings`; before that stands the
                path, as in `encoder.layers.0.self_attn_layer_norm.gamma`.

        Raises:
            ValueError: the optimizer has already been used.
        """
        if self.built:
            raise ValueError(
                "`exclude_from_weight_decay()` must be called before the first training step"
            )
        names = _check_strings("var_list", var_list)
        patterns = _check_strings("var_names", var_names)
        try:
            pattern = re.compile("|".join(patterns)) if patterns else None
        except re.error as error:
            rule = f"must be regular expressions ({error})"
            raise argument_error("var_names", rule, var_names) from None
        self._excluded_names, self._excluded_pattern = frozenset(names), pattern

    def _is_excluded(self, name):
        if name in self._excluded_names:
            return True
        pattern = self._excluded_pattern
        return pattern is not None and pattern.search(keras_style_name(name)) is not None

    def build(self, names, owner=None):
        """Takes the parameters of a model. Called by the first training step.

        Args:
            names: iterable of str. Names of all parameters.
            owner: what the parameters belong to. The optimizer serves one owner only, because its
                state belongs to the values of the parameters.

        Raises:
            ValueError: the optimizer already serves another model.
        """
        if self.built:
            if owner is not self._owner:
                raise ValueError(
                    f"this {type(self).__name__} already trains another model\n"
                    "hint: make a new optimizer for each model"
                )
            return
        excluded = [name for name in names if self._is_excluded(name)]
        core = _core.Optimizer(self._core_config(excluded))
        if self._pending_state is not None:
            core.set_state(self._pending_state)
        self._core, self._owner, self._pending_state = core, owner, None

    def apply(self, gradients, parameters):
        """One step on arrays, for use without a model.

        Args:
            gradients: dict of str to float32 array.
            parameters: dict of str to float32 array, with the same names and shapes.

        Returns:
            dict of str to float32 array. The new values.

        Raises:
            ValueError: names or shapes differ.
            FloatingPointError: a gradient is not finite; nothing was changed.
        """
        if not self.built:
            self.build(parameters)
        if self.loss_scale_factor is not None:
            scale = np.float32(self.loss_scale_factor)
            gradients = {name: gradient / scale for name, gradient in gradients.items()}
        values, norm, applied = self._core.apply(parameters, gradients, self.learning_rate)
        if not applied:
            raise FloatingPointError(f"gradients are not finite (their norm is {norm})")
        return values

    def finalize_variable_values(self, parameters):
        """The running means, if the optimizer keeps them, for use without a model.

        Args:
            parameters: dict of str to float32 array: what was trained with `apply`.

        Returns:
            dict of str to float32 array. With `use_ema` the mean of each, else itself.
        """
        if not isinstance(parameters, Mapping):
            raise argument_error("parameters", "must be a dict from name to array", parameters)
        if not self.use_ema or self._core is None:
            return dict(parameters)
        state = self._core.state()
        means = {name: state.get(f"{name}/average", value) for name, value in parameters.items()}
        return {name: means[name].reshape(np.shape(value)) for name, value in parameters.items()}

    def state(self):
        """The state of the optimizer, to go on later with `set_state`.

        Returns:
            dict of str to array: `iterations` and some arrays for each parameter, in the core's
            own layout. `numpy.savez(path, **state)` keeps it.
        """
        if self._core is not None:
            return self._core.state()
        return dict(self._pending_state or {})

    def set_state(self, state):
        """Replaces the state by what `state()` of an optimizer with the same arguments returned.

        Args:
            state: dict of str to array, or what `numpy.load` gives for a saved one.

        Raises:
            ValueError: the state belongs to an optimizer of another kind.
        """
        state = {name: state[name] for name in state}
        # The core checks; without a model yet, one that is thrown away does.
        checker = self._core if self._core is not None else _core.Optimizer(self._core_config(()))
        checker.set_state(state)
        if self._core is None:
            self._pending_state = state

    def __getstate__(self):
        # A copy goes on where this one is, with the first model that takes it.
        state = {**self.__dict__, "_core": None, "_owner": None}
        return {**state, "_pending_state": self.state() or None}

    def get_config(self):
        """dict. The arguments that make an equal optimizer, without its state."""
        rate = self._learning_rate
        if isinstance(rate, LearningRateSchedule):
            rate = serialize_schedule(rate)
        elif callable(rate):
            raise ValueError("`learning_rate`: a function cannot be saved; use a schedule")
        return {
            "name": self.name,
            "learning_rate": rate,
            "weight_decay": self.weight_decay,
            "clipnorm": self.clipnorm,
            "global_clipnorm": self.global_clipnorm,
            "clipvalue": self.clipvalue,
            "use_ema": self.use_ema,
            "ema_momentum": self.ema_momentum,
            "ema_overwrite_frequency": self.ema_overwrite_frequency,
            "loss_scale_factor": self.loss_scale_factor,
            "gradient_accumulation_steps": self.gradient_accumulation_steps,
            **self._rule_config(),
        }

    @classmethod
    def from_config(cls, config):
        """Makes the optimizer that `get_config` describes."""
        config = dict(config)
        if isinstance(config.get("learning_rate"), dict):
            config["learning_rate"] = deserialize_schedule(config["learning_rate"])
        return cls(**config)


def keras_style_name(name):
    """`path.kernel`, `.bias`, `.gamma`, `.beta` or `.embeddings` for a parameter's own name."""
    path, _, leaf = name.rpartition(".")
    if "norm" in path.rpartition(".")[2]:
        leaf = {"weight": "gamma", "bias": "beta"}.get(leaf, leaf)
    elif path in ("shared", "encoder.embed_positions", "decoder.embed_positions"):
        leaf = "embeddings"
    else:
        leaf = {"weight": "kernel"}.get(leaf, leaf)
    return f"{path}.{leaf}" if path else leaf


def _check_learning_rate(learning_rate):
    if callable(learning_rate):
        return learning_rate
    is_number = isinstance(learning_rate, numbers.Real) and not isinstance(learning_rate, bool)
    if not is_number or not math.isfinite(learning_rate) or learning_rate < 0:
        raise ValueError(
            "`learning_rate` must be a finite float that is not negative, a "
            "`LearningRateSchedule`, or a function without arguments; "
            f"received: {learning_rate!r}"
        )
    return float(learning_rate)


def _check_strings(name, value):
    """A list of strings; `None` is empty."""
    if value is None:
        return []
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise argument_error(name, "must be a list of strings", value)
    return [check_text(name, each) for each in value]
