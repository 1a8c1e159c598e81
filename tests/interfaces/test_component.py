"""Components: options with ranges and choices, keyword-only, frozen."""

import math

import attrs
import pytest

from mtdiff_core.interfaces.component import Component, component, option, options_of, summary_of


@component
class Lens(Component):
    """Bends light.

    More about it.
    """

    power: float = option(2.0, help="dioptres", minimum=-5, maximum=5)
    rings: int = option(help="rings, a whole number", minimum=1)
    glass: str = option("crown", help="kind of glass", choices=("crown", "flint"))
    radii: tuple[float, ...] = option((1.0, 2.0), help="radius of each side", minimum=0.5)
    note: str = option("", help="anything")
    mass: float | None = option(None, help="grams, if it was weighed", minimum=0)


@component
class CoatedLens(Lens):
    """A lens with a coat."""

    power: float = option(1.0, help="dioptres of a coated lens", maximum=3)
    layers: int = option(1, help="layers of the coat", minimum=1)


def test_an_option_is_listed_with_its_resolved_type_default_and_help():
    options = Lens.options()
    assert list(options) == ["power", "rings", "glass", "radii", "note", "mass"]
    assert options["power"].type is float
    assert options["radii"].type == tuple[float, ...]
    assert options["power"].default == 2.0
    assert options["glass"].help == "kind of glass"
    assert {name: info.name for name, info in options.items()} == {name: name for name in options}


def test_only_an_option_without_default_is_required():
    assert [name for name, info in Lens.options().items() if info.required] == ["rings"]
    with pytest.raises(TypeError, match="rings"):
        Lens()


def test_a_subclass_keeps_its_parents_options_and_may_change_one():
    options = CoatedLens.options()
    assert set(options) == {*Lens.options(), "layers"}
    assert (options["power"].default, options["power"].minimum, options["power"].maximum) == (1.0, None, 3)
    assert CoatedLens(rings=1, power=-100).power == -100
    assert Lens.options()["power"].default == 2.0


def test_a_plain_field_is_not_offered_as_an_option():
    @component
    class WithState(Component):
        size: int = option(1, help="size")
        bound_to: object = attrs.field(default=None)

    assert list(options_of(WithState)) == ["size"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"power": 5.1}, "must be from -5 to 5, not 5.1"),
        ({"power": -5.1}, "must be from -5 to 5, not -5.1"),
        ({"power": math.inf}, "must be from -5 to 5, not inf"),
        ({"rings": 0}, "must be at least 1, not 0"),
        ({"glass": "Crown"}, "must be one of 'crown', 'flint', not 'Crown'"),
        ({"radii": (1.0, 0.4)}, r"must be at least 0.5, not \(1.0, 0.4\)"),
        ({"mass": -1.0}, "must be at least 0, not -1.0"),
    ],
)
def test_a_value_outside_what_is_allowed_is_refused_with_what_is_allowed(values, message):
    with pytest.raises(ValueError, match=message):
        Lens(**{"rings": 1, **values})


@pytest.mark.parametrize("name", ["power", "mass"])
def test_nan_is_refused_although_it_compares_with_nothing(name):
    with pytest.raises(ValueError, match="not nan"):
        Lens(rings=1, **{name: math.nan})


def test_nan_inside_a_tuple_is_refused():
    with pytest.raises(ValueError, match="nan"):
        Lens(rings=1, radii=(1.0, math.nan))


def test_limits_themselves_none_and_an_empty_tuple_are_allowed():
    lens = Lens(power=5, rings=1, radii=(), mass=None)
    assert (lens.power, lens.rings, lens.radii, lens.mass) == (5, 1, (), None)
    assert Lens(power=-5, rings=1, radii=(0.5,), mass=0).power == -5


def test_a_component_made_by_evolve_is_checked_again():
    with pytest.raises(ValueError, match="at least 1"):
        attrs.evolve(Lens(rings=1), rings=0)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"minimum": 0, "maximum": 1}, "from 0 to 1"),
        ({"minimum": 0}, "at least 0"),
        ({"maximum": 0.25}, "at most 0.25"),
        ({"minimum": 1, "maximum": 2**20}, "from 1 to 1048576"),
        ({"choices": (1, 2)}, "one of 1, 2"),
        ({}, ""),
    ],
)
def test_what_is_allowed_is_said_in_words(limits, words):
    @component
    class One(Component):
        value: float = option(1, help="a value", **limits)

    assert One.options()["value"].allowed() == words


def test_options_cannot_be_given_by_position():
    with pytest.raises(TypeError, match="positional"):
        Lens(2.0, 1)


def test_a_component_cannot_be_changed_and_takes_no_new_attribute():
    lens = Lens(rings=1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        lens.rings = 2
    with pytest.raises((attrs.exceptions.FrozenInstanceError, AttributeError)):
        lens.rimgs = 2
    assert not hasattr(lens, "__dict__")


def test_equal_options_make_equal_components():
    assert Lens(rings=2) == Lens(rings=2, power=2.0)
    assert Lens(rings=2) != Lens(rings=3)


def test_the_summary_is_the_first_line_of_the_docstring_only():
    assert summary_of(Lens) == "Bends light."


def test_a_class_without_a_docstring_has_an_empty_summary():
    assert summary_of(type("Bare", (), {})) == ""
