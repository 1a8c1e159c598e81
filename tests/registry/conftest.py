"""Packages as pip would leave them on disk, and commands that find them."""

import os
import sys
from importlib import metadata
from textwrap import dedent

import pytest


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package with one module and one entry point, as pip would leave it on disk."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def write(module, source, *, plugin=None, distribution=None, version="1.0", points=None):
        name = distribution or f"{module}-package"
        (site / f"{module}.py").write_text(dedent(source))
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        listed = f"{plugin or module} = {module}" if points is None else points
        (info / "entry_points.txt").write_text(f"[mtdiff]\n{listed}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        return metadata.PathDistribution(info).entry_points if points is None else info

    yield write
    for module in site.glob("*.py"):
        sys.modules.pop(module.stem, None)


@pytest.fixture
def mtdiff_beside(tmp_path, mtdiff_process):
    """Run a command where the packages of ``install`` are installed too, in a terminal that is wide enough."""
    path = os.pathsep.join([str(tmp_path / "site"), os.environ.get("PYTHONPATH", "")])

    def call(*arguments, **variables):
        return mtdiff_process(*arguments, env={**os.environ, "PYTHONPATH": path, "COLUMNS": "2000", **variables})

    return call
