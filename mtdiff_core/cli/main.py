"""The ``mtdiff`` command."""

from __future__ import annotations

import errno
import logging
import signal
import sys
import traceback

import click
from rich.logging import RichHandler

import mtdiff_core
from mtdiff_core.cli.bench import bench
from mtdiff_core.cli.compare import compare
from mtdiff_core.cli.console import errors
from mtdiff_core.cli.data import data
from mtdiff_core.cli.evaluate import evaluate
from mtdiff_core.cli.plugins import plugins
from mtdiff_core.cli.recipes import recipes
from mtdiff_core.cli.run import run
from mtdiff_core.cli.sample import sample
from mtdiff_core.errors import InterruptedRunError, UserError
from mtdiff_core.registry.plugin import in_one_line, raised_by

# What the system says of a path that it does not even look at, whatever a command wanted of it.
REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(mtdiff_core.__version__, prog_name="mtdiff")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.option(
    "--disable", multiple=True, metavar="PLUGIN",
    help="Leave a plugin out, by its name or its package's. MTDIFF_DISABLE=ONE,OTHER does so for every command.",
)  # fmt: skip
def cli(debug: bool, disable: tuple[str, ...]) -> None:
    """Multi-modal diffusion: several aligned kinds of data, one model, every direction.

    Begin with: mtdiff run image+label
    """


for command in (run, sample, evaluate, compare, bench, data, plugins, recipes):
    cli.add_command(command)


def main() -> None:
    """Run a command; exit with 0 done, 1 a fault of ours, 2 the user's input is at fault, 130 interrupted."""
    # A SIGTERM ends every command as Ctrl-C does; training takes both over, and saves first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    handler = RichHandler(console=errors, show_time=False, show_path=False, markup=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    sys.exit(exit_code())


def exit_code() -> int:
    """Run the command that ``sys.argv`` names; its exit code."""
    debug = "--debug" in sys.argv[1:]
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except UserError as error:
        _say(f"error: {error}", debug)
        return error.exit_code
    except InterruptedRunError as error:
        _say(f"interrupted: {error}", debug)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        _say("interrupted", debug)
        return 130
    except BrokenPipeError:  # such as "mtdiff recipes | head"
        sys.stderr.close()
        return 0
    except (Exception, SystemExit) as error:  # a plugin may call sys.exit(0) as if all were done
        if _is_out_of_memory(error):
            _say("error: there is not enough memory\n  try a smaller data.batch_size, or train.accumulate = 2", debug)
            return UserError.exit_code
        if isinstance(error, OSError) and error.errno in REFUSED and error.filename:
            _say(f"error: {error.filename}: cannot be used ({error.strerror})", debug)
            return UserError.exit_code
        traceback.print_exc()
        plugin = raised_by(error)
        if plugin is None:
            _say("error: this is a fault of mtdiff or of a plugin; please report it with the lines above", debug=False)
        else:
            reason = in_one_line(error)
            _say(
                f"error: {plugin} failed: {reason}\n  please report it to its authors with the lines above", debug=False
            )
        return 1
    return 0


def _is_out_of_memory(error: BaseException) -> bool:
    """Whether this is Python's or torch's way to say so; torch itself need not have been imported."""
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool({"MemoryError", "OutOfMemoryError"} & names) or "DefaultCPUAllocator: can't allocate" in str(error)


def _say(message: str, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    click.echo(message, err=True)


if __name__ == "__main__":
    main()
