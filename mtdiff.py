"""``python -m mtdiff``, as ``torchrun -m mtdiff`` starts it, is the ``mtdiff`` command."""

from mtdiff_core.cli.main import main

if __name__ == "__main__":
    main()
