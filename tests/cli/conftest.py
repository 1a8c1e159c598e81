"""What tests of the command line share: one run that is trained once."""

import sys

import pytest

from mtdiff_core.cli.main import exit_code
from tests.conftest import TINY

# A second modality beside the image whose values may be given; it reads the same field.
SECOND = """
[modalities.again]
type = "label"
field = "label"
"""


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The run directory of a tiny recipe with three modalities. For reading: copy it before changing anything."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.toml").write_text(TINY + SECOND)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mtdiff", "run", str(folder / "recipe.toml"), "--out", str(folder / "run")])
        assert exit_code() == 0
    return folder / "run"
