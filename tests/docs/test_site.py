"""The documentation site: it can be built strictly, loads nothing from elsewhere, and lacks nothing that there is."""

import html
import inspect
import os
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from urllib.parse import unquote

import click
import pytest

import mtdiff_core
from mtdiff_core.cli.main import cli
from mtdiff_core.interfaces.component import options_of
from mtdiff_core.packaged import packaged_recipes
from mtdiff_core.recipe import sections
from mtdiff_core.registry import hookspecs
from mtdiff_core.registry.checks import HOOKS
from tests.conftest import CLONE


class Elements(HTMLParser):
    """The elements of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=CLONE, env=variables, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def text(site):
    """What a page says, by its path without suffix, in one line."""

    def read(page):
        body = (site / f"{page}.html").read_text().partition("<article")[2].partition("</article>")[0]
        return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())

    return read


def commands():
    """Every command with the page that it is on."""

    def below(command, path):
        yield path, command
        for name, one in getattr(command, "commands", {}).items():
            yield from below(one, (*path, name))

    return [found for name, command in cli.commands.items() for found in below(command, (name,))]


def test_a_page_loads_something_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        for tag, attributes in Elements(page.read_text()).found:
            # a link is followed by who wants to; all else is loaded with the page
            loaded = [attributes.get("src")] + [attributes.get("href")] * (tag != "a")
            assert not [one for one in loaded if one and re.match(r"(\w+:)?//", one)], (
                f"{page.name}: {tag} {attributes}"
            )
            assert "mermaid" not in attributes.get("class", "").split(), "drawn by a script from elsewhere"
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", sheet.read_text()), sheet


def test_a_formula_is_left_as_it_was_typed(site):
    method = (site / "method.html").read_text()
    assert method.count("<math") > 20
    for page in site.rglob("*.html"):
        assert "arithmatex" not in page.read_text(), page


def test_what_is_generated_is_left_out(site):
    for page in site.rglob("*.html"):
        assert "generated:" not in page.read_text(), page


@pytest.mark.parametrize(("path", "command"), commands(), ids=lambda one: " ".join(one) if type(one) is tuple else "")
def test_a_command_lacks_its_help(text, path, command):
    page = text(f"commands/{path[0]}")
    assert f"Usage: mtdiff {' '.join(path)} " in page
    assert " ".join(command.get_short_help_str(limit=30).removesuffix("...").split()) in page
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert f" {parameter.opts[-1]}" in page
            assert "".join(parameter.help.split()) in page.replace(" ", "")  # it is wrapped, also amid words


@pytest.mark.parametrize("section", [name for name in vars(sections) if name.endswith("Options")])
def test_a_key_of_a_recipe_is_missing(text, section):
    page = text("options")
    for info in options_of(getattr(sections, section)).values():
        assert f" {info.name} " in page
        assert " ".join(info.help.split()) in page


@pytest.mark.parametrize("kind", HOOKS)
def test_a_component_or_an_option_of_it_is_missing(text, registry, kind):
    found = [one for one in registry.components(kind) if one.plugin.package == "mtdiff"]
    assert found
    page = text("components")
    for one in found:
        assert f"{one.name}¶" in page
        for info in options_of(one.cls).values():
            assert f" {info.name} " in page
            assert " ".join(info.help.split()) in page


def test_a_hook_is_missing(text):
    page = text("hooks")
    for name, hook in vars(hookspecs).items():
        if name.startswith("mtdiff_"):
            assert f" {name} " in page
            assert " ".join(inspect.getdoc(hook).replace("``", "").split()) in page


def test_a_name_of_the_plugin_api_is_missing(site):
    page = (site / "api.html").read_text()
    for name in mtdiff_core._HOMES:
        assert f'id="mtdiff_core.{name}"' in page
    for module in ("codecs", "files", "intervals", "randomness", "testing"):
        assert f'id="mtdiff_core.{module}"' in page


def test_a_recipe_or_its_picture_is_missing(text, site):
    page = text("recipes")
    images = [unquote(one["src"]) for tag, one in Elements((site / "recipes.html").read_text()).found if tag == "img"]
    for name, path in packaged_recipes().items():
        recipe = path.read_text()
        head, _, rest = recipe.partition("\nname = ")
        assert " ".join(head.replace("#", "").split()) in page
        assert " ".join(rest.split()) in page
        assert tomllib.loads(recipe)["description"] in page
        assert f"pictures/{name}.png" in images
