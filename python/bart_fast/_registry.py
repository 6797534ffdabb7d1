"""Objects by name and configuration, in the form in which Keras writes them."""


class Registry:
    """Classes of one kind, found by their name whatever its case.

    Args:
        kind: str. What the objects are, for messages, e.g. `"optimizer"`.
        module: str. The public module of the classes in Keras, e.g. `"keras.optimizers"`.
        base: class. What every object of the kind is an instance of.
        classes: dict of str to class. All names by which a class is known.
    """

    def __init__(self, kind, module, base, classes):
        self.kind = kind
        self.module = module
        self.base = base
        self.classes = {name.lower(): cls for name, cls in classes.items()}

    def get(self, identifier):
        """An object from itself, its name, or its serialised form."""
        if isinstance(identifier, self.base):
            return identifier
        if isinstance(identifier, str):
            return self._class(identifier)()
        if isinstance(identifier, dict):
            return self.deserialize(identifier)
        raise ValueError(
            f"`{self.kind}` must be a name ({self._names()}), a configuration, or an instance of "
            f"`bart_fast.{self.module.removeprefix('keras.')}.{self.base.__name__}`; "
            f"received: {identifier!r}"
        )

    def serialize(self, instance):
        """dict. `class_name` and `config` of an object, as Keras writes them."""
        if not isinstance(instance, self.base):
            raise ValueError(
                f"`{self.kind}` must be an instance of `{self.base.__name__}`; "
                f"received: {instance!r}"
            )
        return {
            "module": self.module,
            "class_name": type(instance).__name__,
            "config": instance.get_config(),
            "registered_name": None,
        }

    def deserialize(self, config):
        """The object that `serialize` described."""
        if not isinstance(config, dict) or "class_name" not in config:
            raise ValueError(
                f"`config` of a {self.kind} must be a dict with `class_name` and "
                f"`config`; received: {config!r}"
            )
        return self._class(config["class_name"]).from_config(config.get("config") or {})

    def _class(self, name):
        found = self.classes.get(str(name).lower())
        if found is None:
            raise ValueError(f"`{self.kind}`: unknown name {name!r}; known names: {self._names()}")
        return found

    def _names(self):
        return ", ".join(sorted({repr(name) for name in self.classes}))
