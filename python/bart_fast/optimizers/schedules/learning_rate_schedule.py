"""What all learning rate schedules share."""

from bart_fast._validation import (
    check_finite_float,
    check_flag,
    check_int,
    check_positive_float,
    check_text,
)


class LearningRateSchedule:
    """A learning rate that depends on the number of steps made.

    A subclass overrides `__call__(step)`, which gets the number of batches trained on so far (int,
    from 0) and returns a float, and `get_config()`, which returns its constructor arguments.
    """

    def __call__(self, step):
        """The learning rate of the step after `step` steps."""
        raise NotImplementedError(f"{type(self).__name__} must override `__call__(step)`")

    def get_config(self):
        """dict. The constructor's arguments."""
        raise NotImplementedError(f"{type(self).__name__} must override `get_config()`")

    @classmethod
    def from_config(cls, config):
        """Makes the schedule that `get_config` describes."""
        return cls(**config)

    def _set(self, **arguments):
        """Sets constructor arguments as attributes: numbers, but for names and flags.

        Raises:
            ValueError: a value that cannot be used.
        """
        for name, value in arguments.items():
            if name == "name":
                check_text(name, value)
            elif name in ("staircase", "cycle"):
                check_flag(name, value)
            elif name in ("decay_steps", "first_decay_steps", "t_mul"):
                check_positive_float(name, value)
            elif name == "warmup_steps":
                check_int(name, value, 0)
            elif name != "warmup_target" or value is not None:
                check_finite_float(name, value)
            setattr(self, name, value)
