"""A logger: it hears of a run, and writes what it likes. This one writes log.csv, which spreadsheets open."""

from mtdiff_core import hookimpl

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_run_started(run, step):  # or goes on, after so many steps: of later ones nothing counts
    path = run.directory / "log.csv"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    path.write_text("".join(line for line in lines if line.startswith("step") or int(line.split(",")[0]) <= step))


mtdiff_run_went_back = mtdiff_run_started


@hookimpl
def mtdiff_step_finished(run, step, scalars):
    with (run.directory / "log.csv").open("a") as file:
        if file.tell() == 0:
            file.write(",".join(["step", *scalars]) + "\n")
        file.write(",".join(map(str, [step, *scalars.values()])) + "\n")
