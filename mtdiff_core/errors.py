"""The one exception that means: the user's input is at fault, and here is what would be right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Bad input: a recipe, a data file, a checkpoint, a plugin or an option.

    The command line prints it as one message and exits with code 2.

    Args:
        what: What is wrong, in one sentence.
        where: The file, key path or option it is about; "" if ``what`` says it.
        hint: What would be right; "" if there is nothing to add.
    """

    exit_code = 2

    def __init__(self, what: str, where: str = "", hint: str = "") -> None:
        message = f"{where}: {what}" if where else what
        super().__init__(f"{message}\n  {hint}" if hint else message)


class MissingSplitError(UserError):
    """The data set is well, but has nothing for this split."""


@contextmanager
def located(where: str) -> Iterator[None]:
    """Say where the input is at fault, for errors raised by what cannot know it."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error), where) from error


class InterruptedRunError(Exception):
    """A run was asked to stop (Ctrl-C, SIGTERM) and has saved a checkpoint.

    Args:
        what: What was stopped, and what is kept.
        hint: How to go on.
    """

    exit_code = 130

    def __init__(self, what: str, hint: str = "go on with --resume") -> None:
        super().__init__(f"{what}\n  {hint}")
        self.what = what
