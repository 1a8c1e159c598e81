"""The wheel alone, outside any clone."""

import json
import tarfile
import zipfile

from tests.conftest import CLONE


def test_the_wheel_is_not_what_runs(environment):
    where = environment.run(
        "python", "-c", "import mtdiff_core, mtdiff_image; print(mtdiff_core.__file__, mtdiff_image)"
    )
    assert where.split()[0] == str(environment.site / "mtdiff_core" / "__init__.py")
    assert str(CLONE) not in where


def test_a_file_is_missing_from_the_wheel_or_the_sdist(release):
    (wheel,), (sdist,) = release.glob("*.whl"), release.glob("*.tar.gz")
    packed = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        sources = {name.partition("/")[2] for name in archive.getnames()}
    for folder, place in (
        ("mtdiff_core", "mtdiff_core"),
        ("plugins", ""),
        ("recipes", "mtdiff_core/packaged_recipes"),
        ("templates", "mtdiff_core/packaged_templates"),
    ):
        for path in sorted((CLONE / folder).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                inside = path.relative_to(CLONE / folder).as_posix()
                assert (f"{place}/{inside}" if place else inside) in packed
                assert f"{folder}/{inside}" in sources
    assert {"mtdiff.py", "mtdiff_core/py.typed"} <= packed
    assert not [name for name in packed if name.startswith("tests/")]


def test_the_wheel_lists_no_plugins_or_recipes(environment):
    said = environment.mtdiff("plugins")
    rows = {line.split()[0]: line.split() for line in said.splitlines() if line.split()[1:2] == ["mtdiff"]}
    assert {"builtin", "image", "label", "metrics", "tensorboard"} <= set(rows)
    assert {row[3] for row in rows.values()} == {"ok"}
    assert "image+label" in environment.mtdiff("recipes")


def test_the_wheel_cannot_train_a_recipe_that_it_brings(environment):
    environment.mtdiff("run", "image+label", "--out", "shipped", small=True)
    run = environment.work / "shipped"
    assert (run / "samples" / "grid.png").stat().st_size > 1000
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20
    environment.mtdiff("sample", run, "--given", "label=3", "--num", 2, "--steps", 2, "--out", "given")
    assert (environment.work / "given" / "samples.safetensors").is_file()
