"""Recipes: every key checked, every problem named at once, every default written out."""

import tomllib
from pathlib import Path

import pytest
import torch

from mtdiff_core.assembly import assemble, open_training_data
from mtdiff_core.diffusion.trial import try_codecs
from mtdiff_core.errors import UserError
from mtdiff_core.interfaces.component import options_of
from mtdiff_core.recipe.builder import build_recipe
from mtdiff_core.recipe.loading import apply_override, load_recipe

CLONE = Path(__file__).parents[1]
SHIPPED = sorted((CLONE / "recipes").rglob("*.toml"))


@pytest.fixture
def read(registry, tiny):
    """The tiny recipe with overrides."""
    return lambda *overrides: load_recipe(tiny, registry, overrides)


@pytest.fixture
def refused(read):
    """What is said about the tiny recipe with overrides."""

    def message(*overrides):
        with pytest.raises(UserError) as raised:
            read(*overrides)
        return str(raised.value)

    return message


def test_there_is_a_shipped_recipe():
    assert [path for path in SHIPPED if path.name == "image+label.toml"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(CLONE)))
def test_a_shipped_recipe_is_valid_assembles_and_comes_back_from_its_resolved_form(path, registry, tmp_path):
    recipe = load_recipe(path, registry)
    assert recipe.head.description
    assemble(recipe, open_training_data(recipe).fields)
    resolved = tmp_path / "resolved.toml"
    resolved.write_text(recipe.to_toml())
    assert load_recipe(resolved, registry) == recipe


def test_trying_encoders_and_decoders_changes_the_model_or_what_is_random(read):
    recipe = read()
    torch.manual_seed(5)
    experiment = assemble(recipe, open_training_data(recipe).fields)
    drawn, model = torch.rand(3), experiment.model
    torch.manual_seed(5)
    assert drawn.equal(torch.rand(3))
    model.decoder("label").add_module("frozen", torch.nn.BatchNorm1d(2).eval())
    modes = [module.training for module in model.modules()]
    modalities = {name: source.modality for name, source in experiment.sources.items()}
    try_codecs(model, modalities, recipe.backbone.feature_shapes(model.process.layout.space))
    assert [module.training for module in model.modules()] == modes
    assert (True in modes, False in modes) == (True, True)


def test_statistics_count_what_is_only_tried(read):
    class Counting(torch.nn.Module):
        def __init__(self, head):
            super().__init__()
            self.head, self.norm = head, torch.nn.BatchNorm2d(8)

        def forward(self, features, slot):
            self.norm(features.map)
            return self.head(features, slot)

    recipe = read()
    experiment = assemble(recipe, open_training_data(recipe).fields)
    model = experiment.model
    counting = Counting(model.decoder("label"))
    model.decoders["label"] = counting
    modalities = {name: source.modality for name, source in experiment.sources.items()}
    try_codecs(model, modalities, recipe.backbone.feature_shapes(model.process.layout.space))
    assert counting.norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("space.aggregator=blocks", "modalities.label.log_snr_shift=1.5"),
        ("diffusion.schedule=linear", "diffusion.beta_end=0.03", "train.betas=[0.5, 0.75]"),
        ('sample.directions=["label -> image"]', "backbone.attention=[]", 'description=with "quotes" and \\ é'),
        ("modalities.other.type=label", "modalities.other.field=label", "train.learning_rate=1"),
    ],
)
def test_the_resolved_recipe_reads_as_the_same_recipe(read, registry, tmp_path, overrides):
    recipe = read(*overrides)
    path = tmp_path / "resolved.toml"
    path.write_text(recipe.to_toml())
    again = load_recipe(path, registry)
    assert again == recipe
    assert again.to_tables() == recipe.to_tables() == tomllib.loads(path.read_text())


def test_every_default_is_written_out_and_nothing_that_was_set_is_lost(read):
    recipe = read()
    tables = recipe.to_tables()
    parts = {
        (): [recipe.head],
        ("data",): [recipe.data, recipe.dataset],
        ("space",): [recipe.space, recipe.aggregator],
        ("modalities", "image"): [recipe.modalities["image"].options, recipe.modalities["image"].modality],
        ("modalities", "label"): [
            recipe.modalities["label"].options,
            recipe.modalities["label"].aggregation,
            recipe.modalities["label"].modality,
        ],
        ("backbone",): [recipe.backbone_options, recipe.backbone],
        ("diffusion",): [recipe.diffusion, recipe.schedule],
        ("train",): [recipe.train],
        ("sample",): [recipe.sample],
    }
    for path, instances in parts.items():
        table = tables
        for key in path:
            table = table[key]
        for instance in instances:
            for name in options_of(type(instance)):
                value = getattr(instance, name)
                assert table[name] == (list(value) if isinstance(value, tuple) else value), (*path, name)
    assert tables["train"]["ema_decay"] == 0.999, "a default that the tiny recipe is silent about"
    assert tables["backbone"]["attention"] == [4], "set in the tiny recipe"
    assert tables["modalities"]["label"]["field"] == "label", "resolved: its own name"
    assert "curve" not in tables["modalities"]["image"], "the anchor's coefficient is not an option"


def test_overrides_reach_nested_new_text_list_and_top_keys_and_the_last_one_wins(read):
    recipe = read(
        "seed=7",
        "data.size=12",
        "data.size=16",
        "modalities.label.weight=0.5",
        "diffusion.schedule=rectified-flow",
        "backbone.multipliers=[1, 1]",
        'description="a = b"',
        "modalities.second.type=label",
        "modalities.second.field=label",
    )
    assert recipe.seed == 7
    assert recipe.dataset.size == 16
    assert recipe.modalities["label"].options.weight == 0.5
    assert recipe.diffusion.schedule == "rectified-flow"
    assert recipe.backbone.multipliers == (1, 1)
    assert recipe.head.description == "a = b"
    assert list(recipe.modalities) == ["image", "label", "second"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3e-4", 3e-4),
        ("true", True),
        ('"3"', "3"),
        ("plain text", "plain text"),
        (" spaced ", "spaced"),
        ("a=b", "a=b"),
        ("", ""),
        ("[1, 2]", [1, 2]),
        ("[1,", "[1,"),
        ('["label -> image"]', ["label -> image"]),
        ("label -> image", "label -> image"),
    ],
)
def test_an_overrides_value_is_toml_or_else_text(text, value):
    tables = {}
    apply_override(tables, f"a.b={text}")
    assert tables == {"a": {"b": value}}
    assert type(tables["a"]["b"]) is type(value)


@pytest.mark.parametrize("override", ["train.steps", "=3", ".=3", "a..b=3", "a.=3", ""])
def test_what_assigns_nothing_is_refused(override):
    with pytest.raises(UserError, match="expected key=value"):
        apply_override({}, override)


def test_an_override_through_a_value_is_refused_and_changes_nothing():
    tables = {"train": {"steps": 4}}
    with pytest.raises(UserError, match="goes through 'steps', which is a value and no section"):
        apply_override(tables, "train.steps.x=3")
    assert tables == {"train": {"steps": 4}}


def test_all_problems_are_reported_at_once_each_with_its_key(refused):
    message = refused(
        "nmae=x", "data.sise=3", "train.steps=0", "train.compile=1", "modalities.label.type=labl", "sample.sampler=dim"
    )
    assert "6 problems" in message.split("\n")[0]
    assert len(message.split("\n")) == 1 + 6 + 1, "the sixth brings a line of its own with the nearest spelling"
    for part in (
        "nmae: unknown key; did you mean 'name'?",
        "data.sise: unknown key; did you mean 'size'?",
        "train.steps: must be at least 1, not 0",
        "train.compile: must be true or false, not 1",
        "modalities.label.type: no modality is called 'labl'",
        "did you mean 'label'? allowed: image, label",
        "sample.sampler: must be one of 'ancestral', 'ddim', 'dpmpp_2m', 'dpmpp_2m_sde', not 'dim'",
    ):
        assert part in message


def test_a_single_problem_is_said_in_the_first_line(refused, tiny):
    assert refused("train.steps=0") == f"{tiny} with --set: train.steps: must be at least 1, not 0"


def test_a_file_without_overrides_is_not_blamed_on_set(registry, tiny):
    tiny.write_text(tiny.read_text().replace("steps = 4", "steps = 0"))
    with pytest.raises(UserError) as raised:
        load_recipe(tiny, registry)
    assert str(raised.value) == f"{tiny}: train.steps: must be at least 1, not 0"


def test_an_empty_recipe_is_told_what_is_missing(registry):
    with pytest.raises(UserError) as raised:
        build_recipe({}, registry, "empty.toml")
    message = str(raised.value)
    assert "name: is missing (the recipe's name" in message
    assert "data.dataset: is missing; allowed: digits, image-folder, paired-folder, scenes, table" in message
    assert "space.anchor: is missing" in message


def test_a_recipe_without_modalities_is_told_to_have_one(registry):
    tables = {"name": "x", "data": {"dataset": "digits"}, "space": {"anchor": "image"}}
    with pytest.raises(UserError, match=r"at least one, such as \[modalities.image\]"):
        build_recipe(tables, registry, "x.toml")


def test_a_key_of_another_data_set_is_unknown_and_the_own_ones_are_listed(refused):
    message = refused("data.colour=false")
    assert "data.colour: unknown key" in message
    assert "allowed: dataset, batch_size, workers, keep, complete_share, size" in message


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.steps=four", "train.steps: must be a whole number, not 'four'"),
        ("train.steps=4.0", "train.steps: must be a whole number, not 4.0"),
        ("train.steps=true", "train.steps: must be a whole number, not True"),
        ("train.learning_rate=true", "train.learning_rate: must be a number, not True"),
        ("train.learning_rate=nan", "train.learning_rate: must be a finite number, not nan"),
        ("train.learning_rate=inf", "train.learning_rate: must be a finite number, not inf"),
        (f"train.learning_rate=1{'0' * 400}", "train.learning_rate: must be a finite number, not 1000"),
        ("train.compile=yes", "train.compile: must be true or false, not 'yes'"),
        ("name=3", "name: must be text, not 3"),
        ("train.betas=0.9", "train.betas: must be a list, not 0.9"),
        ('train.betas=[0.9, "x"]', "train.betas: must be a number, not 'x'"),
        ("train.betas=[0.9]", "train.betas: needs two numbers, not 1"),
        ("backbone.attention=[4.5]", "backbone.attention: must be a whole number, not 4.5"),
        ("data=3", "data: must be a section, not 3"),
        ("modalities.label=label", "modalities.label: must be a section, not 'label'"),
        ("data.dataset=3", "data.dataset: must be text, not 3"),
        ("train.accumulate=3", "train.accumulate: 3 does not divide data.batch_size 16"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_and_never_converted(refused, override, problem):
    assert problem in refused(override)


def test_a_whole_number_does_for_a_number_and_becomes_one(read):
    rate = read("train.learning_rate=1").train.learning_rate
    assert (rate, type(rate)) == (1.0, float)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "..", ".hidden", "a b", "a\\b", "a\nb", "a\n", "+a", "-a"])
def test_a_name_that_would_lead_out_of_its_folder_is_refused(refused, name):
    quoted = "".join(f"\\u{ord(sign):04x}" for sign in name)
    assert f"name: {name!r} cannot be a name; it needs letters, digits" in refused(f'name="{quoted}"')


@pytest.mark.parametrize("name", ["image+label", "night2day", "a_b-c.v2", "ziffern-größe"])
def test_a_sensible_name_is_accepted(read, name):
    assert read(f"name={name}").name == name


@pytest.mark.parametrize("name", ["joint", "a+b", "a b", "a>b", "a=b", "a.b", "a/b", ""])
def test_a_modality_whose_name_cannot_stand_in_a_direction_or_an_option_is_refused(registry, tiny, name):
    tables = tomllib.loads(tiny.read_text())
    tables["modalities"][name] = {"type": "label", "field": "label"}
    with pytest.raises(UserError) as raised:
        build_recipe(tables, registry, "x.toml")
    assert f"modalities.{name}: {name!r} cannot be a name" in str(raised.value)


@pytest.mark.parametrize("key", ["curve", "strength", "log_snr_shift"])
def test_the_anchors_table_refuses_the_aggregators_options(refused, key):
    message = refused("space.aggregator=blocks", f"modalities.image.{key}=1")
    assert f"modalities.image.{key}: unknown key" in message
    assert "allowed: type, field, weight, flip" in message


def test_an_anchor_that_is_no_modality_is_answered_with_the_nearest(refused):
    assert "space.anchor: no modality is called 'imag'; did you mean 'image'?" in refused("space.anchor=imag")


def test_an_anchor_that_is_not_one_to_one_is_refused_with_those_that_are(refused):
    message = refused("space.anchor=label")
    assert "space.anchor: 'label' is not encoded one-to-one" in message
    assert "those that can: image" in message


def test_the_default_directions_are_joint_and_from_each_modality_alone(read):
    assert [str(one) for one in read().directions()] == [
        "joint -> image + label",
        "image -> label",
        "label -> image",
    ]


def test_a_recipe_with_one_modality_has_one_direction(registry, tiny):
    tables = tomllib.loads(tiny.read_text())
    del tables["modalities"]["label"]
    assert [str(one) for one in build_recipe(tables, registry, "x.toml").directions()] == ["joint -> image"]


def test_directions_that_are_asked_for_are_kept_in_their_order(read):
    asked = read('sample.directions=["label -> image", "joint"]')
    assert [str(one) for one in asked.directions()] == ["label -> image", "joint -> image + label"]


@pytest.mark.parametrize("setting", ["curve=none", "strength=0"])
def test_a_modality_that_is_not_aggregated_is_generated_but_never_given_by_default(read, setting):
    directions = read(f"modalities.label.{setting}").directions()
    assert [str(one) for one in directions] == ["joint -> image + label", "image -> label"]


@pytest.mark.parametrize(("setting", "shown"), [("curve=none", "curve = 'none'"), ("strength=0", "strength = 0.0")])
def test_a_direction_that_gives_what_the_network_never_sees_is_refused_with_the_reason(refused, setting, shown):
    message = refused(f"modalities.label.{setting}", 'sample.directions=["label -> image"]')
    assert "sample.directions: 'label -> image' cannot work: 'label' is not aggregated" in message
    assert shown in message
    assert (
        'give modalities.label a curve other than "none", set diffusion.conditioning = "observe", or leave' in message
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["data.keep=0.5"], "keep: must be a table, not 0.5"),
        (["data.keep.label=x"], "data.keep: label: must be a number, not 'x'"),
        (["data.keep.label=1.5"], "data.keep: must be from 0 to 1, not {'label': 1.5}"),
        (["data.keep.lable=0.5"], "data.keep.lable: no modality is called so; did you mean 'label'?"),
        (["diffusion.conditioning=observed"], "must be one of 'replace', 'observe', not 'observed'"),
        (["diffusion.observe=['lable']"], "diffusion.observe: no modality is called 'lable'; did you mean 'label'?"),
        (["diffusion.observe_share=2"], "diffusion.observe_share: must be from 0 to 1, not 2.0"),
        (["sample.guide=context"], 'sample.guide: "context" needs diffusion.conditioning = "observe"'),
        (["sample.guidance=-1"], "sample.guidance: must be at least 0, not -1.0"),
    ],
    ids=str,
)
def test_a_setting_of_what_is_known_or_missing_that_cannot_work_is_taken(refused, settings, expected):
    assert expected in refused(*settings)


def test_a_modality_outside_the_noisy_point_cannot_be_given_to_a_network_that_observes(read):
    recipe = read("modalities.label.curve=none", "diffusion.conditioning=observe")
    assert [str(one) for one in recipe.directions()] == ["joint -> image + label", "image -> label", "label -> image"]


def test_a_network_can_be_given_what_it_was_never_told_of(read):
    observe = ["modalities.label.curve=none", "diffusion.conditioning=observe"]
    assert "label -> image" not in map(str, read(*observe, "diffusion.observe=['image']").directions())
    assert "label -> image" in map(str, read(*observe, "diffusion.observe=['label']").directions())


def test_a_table_of_shares_is_lost_on_the_way_through_toml(read):
    recipe = read("data.keep.label=0.25")
    assert recipe.data.keep == {"label": 0.25}
    assert tomllib.loads(recipe.to_toml())["data"]["keep"] == {"label": 0.25}


def test_a_misspelt_modality_in_a_direction_is_named(refused):
    message = refused('sample.directions=["lable -> image"]')
    assert "sample.directions: there is no modality 'lable'" in message
    assert "did you mean 'label'?" in message


def test_the_same_recipe_goes_through_either_aggregator(read):
    linear, blocks = read(), read("space.aggregator=blocks")
    assert blocks.modalities["label"].aggregation.curve == "proportional", "the default in a block of its own"
    assert linear.modalities["label"].aggregation.curve == "fading", "the default in one shared space"
    assert [str(one) for one in blocks.directions()] == [str(one) for one in linear.directions()]
