"""What all learning rate schedules share."""


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


def check_decay_steps(decay_steps):
    """Raises ValueError unless `decay_steps` is positive."""
    if not decay_steps > 0:
        raise ValueError(f"`decay_steps` must be above 0; received: {decay_steps}")
