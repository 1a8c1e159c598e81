"""The logger writes every step once, also of a run that went back."""

from mtdiff_core import RunInfo
from mtdiff_core.testing import registry


def test_every_step_is_written_once(tmp_path):
    (plugin,) = [plugin for plugin in registry().plugins if plugin.name == "plugin-name"]
    assert not plugin.reason
    run = RunInfo(name="x", directory=tmp_path, total_steps=3, modalities=("image",))
    registry().notify("mtdiff_run_started", run=run, step=0)
    for step in (1, 2):
        registry().notify("mtdiff_step_finished", run=run, step=step, scalars={"loss": step / 2})
    registry().notify("mtdiff_run_went_back", run=run, step=1)
    registry().notify("mtdiff_step_finished", run=run, step=2, scalars={"loss": 7.0})
    registry().notify("mtdiff_run_finished", run=run, step=2)
    assert (tmp_path / "log.csv").read_text() == "step,loss\n1,0.5\n2,7.0\n"
