"""What tests of planted faults share."""


def failing(kit, cls, options=None):
    """Names of the checks that a component class fails, with their messages."""
    one = type(f"Test{cls.__name__}", (kit,), {"component": cls, "options": options or {}})
    return {result.name: result.message for result in one.run() if not result.passed}


def names(kit):
    """All checks of a kit, as results call them."""
    return {name.removeprefix("test_").replace("_", " ") for name in kit.check_names()}
