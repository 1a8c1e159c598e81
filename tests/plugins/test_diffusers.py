"""Networks of the diffusers library as backbones, and its autoencoder as the space: small ones, with random weights."""

import copy
import json
import math
import re
import sys

import pytest
import torch
from safetensors.torch import load_file

from mtdiff_core import Context, ContextShape, FieldSpec, UserError
from mtdiff_core.interfaces.workshop import Workshop
from mtdiff_diffusers.backbones import DiffusersConditionalUNet, DiffusersDiT, DiffusersUNet
from mtdiff_diffusers.latent_image import LatentImage
from mtdiff_diffusers.networks import Timesteps
from tests.autoencoders import small_autoencoder
from tests.conftest import CLONE

diffusers = pytest.importorskip("diffusers")

SPACE, CONTEXT = (3, 8, 8), ContextShape(channels=4, flags=3)
SMALL = {"channels": (8, 16), "attention": (4,), "head_channels": 8, "norm_groups": 4}
BACKBONES = {
    "unet": DiffusersUNet(**SMALL),
    "conditional-unet": DiffusersConditionalUNet(**SMALL, context_channels=8),
    "dit": DiffusersDiT(layers=2, heads=2, head_channels=8, features=8),
}


def built(backbone, space=SPACE, context=CONTEXT):
    torch.manual_seed(0)
    return backbone.build(space, context).eval()


def inputs(batch=2, space=SPACE, context=CONTEXT):
    torch.manual_seed(1)
    observed = torch.randn(batch, context.channels, *space[1:])
    return (
        torch.randn(batch, *space),
        torch.linspace(-4, 4, batch),
        Context(observed=observed, flags=torch.zeros(batch, context.flags)),
    )


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param]


def test_features_have_other_shapes_than_promised(backbone):
    for batch in (1, 3):
        found = built(backbone)(*inputs(batch))
        shapes = backbone.feature_shapes(SPACE)
        assert found.map.shape == (batch, *shapes.map)
        assert found.bottleneck.shape == (batch, *shapes.bottleneck)
        assert found.pooled.shape == (batch, shapes.pooled)


def test_a_weight_is_never_trained(backbone):
    network = built(backbone)
    torch.nn.init.normal_(network.token.weight) if getattr(network, "token", None) is not None else None
    found = network(*inputs())
    (found.map.square().sum() + found.bottleneck.square().sum() + found.pooled.square().sum()).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # Attention is invariant to a shift of all keys; the classes that DiT could be given are none of ours.
    assert [name for name in still if not name.endswith(("to_k.bias", "embedding_table.weight"))] == []


@pytest.mark.parametrize("what", ["noise", "observed", "flags", "z"])
def test_something_that_it_is_told_changes_nothing(backbone, what):
    network = built(backbone)
    z, log_snr, context = inputs()
    before = network(z, log_snr, context).map
    if what == "noise":
        log_snr = log_snr + 1
    elif what == "z":
        z = z + 1
    else:
        context = Context(observed=context.observed + (what == "observed"), flags=context.flags + (what == "flags"))
    assert (network(z, log_snr, context).map - before).abs().max() > 1e-4


def test_a_copy_keeps_what_belongs_to_the_original(backbone):
    network = built(backbone)
    other = copy.deepcopy(network)
    torch.testing.assert_close(other(*inputs()).bottleneck, network(*inputs()).bottleneck)
    assert network.kept is other.kept is None


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_log_snr_becomes_the_timestep_of_another_schedule(betas):
    steps = Timesteps(betas)
    ends = {"beta_start": 0.00085, "beta_end": 0.012} if betas == "scaled_linear" else {}
    alpha_bar = diffusers.DDPMScheduler(beta_schedule=betas, **ends).alphas_cumprod.double()
    log_snr = (alpha_bar / (1 - alpha_bar)).log()
    torch.testing.assert_close(steps(log_snr.float()), torch.arange(1000.0), rtol=0, atol=0.05)
    assert steps(torch.tensor([math.inf, -math.inf])).tolist() == [0, 999]


@pytest.fixture
def pretrained(tmp_path):
    """A folder with a small U-Net that someone trained on three channels."""
    torch.manual_seed(3)
    options = DiffusersUNet(**SMALL).own_config(SPACE)
    diffusers.UNet2DModel(**options, in_channels=3, out_channels=3).save_pretrained(tmp_path / "unet")
    return tmp_path / "unet"


def test_pretrained_weights_are_not_used_or_what_they_do_not_know_disturbs_them(pretrained):
    options = DiffusersUNet(pretrained=str(pretrained))
    assert options.feature_shapes(SPACE).map == (8, 8, 8)
    network = built(options)
    z, log_snr, context = inputs()
    theirs = diffusers.UNet2DModel.from_pretrained(pretrained).eval()
    theirs.conv_out = torch.nn.Identity()
    expected = theirs(z, network.timesteps(log_snr)).sample
    torch.testing.assert_close(network(z, log_snr, context).map, expected)


def test_pretrained_weights_of_more_channels_than_the_space_are_cut(pretrained):
    with pytest.raises(UserError, match=r"backbone.pretrained: .*trained on 3 channels, and the diffusion space has 1"):
        built(DiffusersUNet(pretrained=str(pretrained)), space=(1, 8, 8))
    with pytest.raises(UserError, match="trained on 3 channels, and the diffusion space has 1"):
        # one channel and two flags are three inputs too, and not those that it was trained on
        DiffusersUNet(pretrained=str(pretrained)).build((1, 8, 8), ContextShape(channels=0, flags=2))


@pytest.mark.parametrize("asks", [{"num_class_embeds": 4}, {"mid_block_type": None}])
def test_a_network_that_asks_for_what_nobody_tells_it_is_taken(pretrained, asks):
    config = json.loads((pretrained / "config.json").read_text())
    (pretrained / "config.json").write_text(json.dumps({**config, **asks}))
    with pytest.raises(UserError, match=r"backbone.pretrained: its network has (num_class_embeds = 4|no middle block)"):
        DiffusersUNet(pretrained=str(pretrained)).feature_shapes(SPACE)


def test_a_configuration_that_lacks_something_ends_in_a_traceback(pretrained):
    config = json.loads((pretrained / "config.json").read_text())
    del config["block_out_channels"]
    (pretrained / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"backbone.pretrained: config.json in .* has no 'block_out_channels'"):
        built(DiffusersUNet(pretrained=str(pretrained)))


def test_a_folder_of_something_else_is_taken(pretrained, tmp_path):
    with pytest.raises(UserError, match="holds a UNet2DModel, not a DiTTransformer2DModel"):
        built(DiffusersDiT(pretrained=str(pretrained)))
    (pretrained / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json in .* cannot be read"):
        built(DiffusersUNet(pretrained=str(pretrained)))
    with pytest.raises(UserError, match=r"has no config.json"):
        built(DiffusersUNet(pretrained=str(tmp_path)))


def test_pickled_weights_are_read(pretrained):
    weights = load_file(pretrained / "diffusion_pytorch_model.safetensors")
    (pretrained / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(weights, pretrained / "diffusion_pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no diffusion_pytorch_model.safetensors"):
        built(DiffusersUNet(pretrained=str(pretrained)))


@pytest.mark.parametrize(
    ("options", "space", "message"),
    [
        (DiffusersUNet(channels=()), SPACE, "backbone.channels: needs at least one entry"),
        (DiffusersUNet(channels=(8, 8, 8), norm_groups=4), (3, 6, 6), "multiple of 4, not 6x6"),
        (DiffusersUNet(channels=(12, 16), norm_groups=8), SPACE, "backbone.norm_groups: 12 channels"),
        (DiffusersUNet(channels=(8, 16), head_channels=16), SPACE, "backbone.head_channels: 8 channels"),
        (DiffusersDiT(), (3, 8, 6), "needs a square"),
        (DiffusersDiT(patch=3), SPACE, "multiple of 3"),
        (DiffusersDiT(heads=1, head_channels=6), SPACE, "1 heads of 6 channels are 6, and must be a multiple of 4"),
    ],
)
def test_options_that_do_not_fit_are_told_by_the_library(options, space, message):
    with pytest.raises(UserError, match=message):
        built(options, space)


def test_without_the_library_there_is_a_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"pip install 'mtdiff\[diffusers\]'"):
        built(BACKBONES["unet"])


# Latents


@pytest.fixture
def vae(tmp_path):
    """A folder with a small autoencoder of 2x2 pixels to a latent."""
    return small_autoencoder(tmp_path / "vae", channels=1)


class Pictures:
    """Samples, some of which have no picture."""

    def __init__(self, count, size=8):
        random = torch.Generator().manual_seed(5)
        self.rows = torch.randint(0, 256, (count, 1, size, size), generator=random, dtype=torch.uint8)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return {"picture": self.rows[index]} if index % 2 == 0 else {}


SPEC = FieldSpec(dtype="uint8", shape=(1, 8, 8))


def fitted(vae, samples=None):
    modality = LatentImage(vae=str(vae)).bind(SPEC)
    state = modality.fit(samples or Pictures(40), "picture", Workshop(torch.device("cpu"), 0))
    return modality.bind(SPEC, state)


def test_latents_are_not_those_of_the_autoencoder_or_not_of_unit_size(vae):
    modality = fitted(vae)
    assert modality.anchor_shape() == (2, 4, 4)
    encoder = modality.encoder((2, 4, 4))
    pictures = modality.prepare(Pictures(40).rows[::2], torch.Generator())
    theirs = diffusers.AutoencoderKL.from_pretrained(vae).eval()
    codes = encoder(pictures)
    assert codes.square().mean(dim=(0, 2, 3)).tolist() == pytest.approx([1, 1], rel=0.01)
    with torch.no_grad():
        latent = theirs.encode(pictures).latent_dist.mode()
        torch.testing.assert_close(codes * encoder.scale + encoder.shift, latent)
        torch.testing.assert_close(encoder.invert(codes), theirs.decode(latent).sample)
        error = (theirs.decode(latent).sample - pictures).square().mean().sqrt()
    assert float(modality.state["error"]) == pytest.approx(float(error), rel=1e-4)


def test_the_autoencoder_is_trained_or_changes_in_training(vae):
    encoder = fitted(vae).encoder((2, 4, 4)).train()
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not any(module.training for module in encoder.autoencoder.modules())


def test_a_picture_that_is_not_what_the_autoencoder_gives_back_is_impossible(vae):
    modality = fitted(vae)
    values = modality.prepare(Pictures(2).rows[:1], torch.Generator())
    exact = torch.distributions.Normal(torch.zeros_like(values), 1e-6)
    found = modality.log_likelihood(torch.distributions.Independent(exact, 3), values)
    assert torch.isfinite(found).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 3}, "reads 3 channels, and these pictures have 1"),
        ({"block_out_channels": [8] * 5}, "multiple of 16, not 8x8"),
        ({"_class_name": "VQModel"}, "holds a VQModel, not a AutoencoderKL"),
    ],
)
def test_an_autoencoder_that_does_not_fit_is_told_by_the_library(vae, change, message):
    config = json.loads((vae / "config.json").read_text())
    (vae / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        fitted(vae)


def test_too_few_pictures_are_measured(vae):
    with pytest.raises(UserError, match="1 pictures are too few"):
        fitted(vae, Pictures(2))


def test_no_autoencoder_at_all_is_not_said(vae):
    with pytest.raises(UserError, match="vae: is needed"):
        fitted("")


RECIPE = """
name = "{name}"
[data]
dataset = "digits"
size = 8
batch_size = 16
[space]
anchor = "image"
[modalities.image]
{image}
[modalities.label]
type = "label"
[backbone]
{backbone}
[train]
steps = 4
warmup_steps = 1
log_every = 1
grid_every = 0
[sample]
steps = 2
num = 4
"""
TABLES = {
    "unet": 'type = "diffusers-unet"\nchannels = [8, 16]\nattention = [4]\nhead_channels = 8\nnorm_groups = 4',
    "conditional-unet": 'type = "diffusers-conditional-unet"\nchannels = [8, 16]\nattention = [4]\nhead_channels = 8\n'
    "norm_groups = 4\ncontext_channels = 8",
    "dit": 'type = "diffusers-dit"\nlayers = 2\nheads = 2\nhead_channels = 8\nfeatures = 8',
    "latent": 'type = "unet"\nchannels = 8\nmultipliers = [1, 2]\nblocks = 1\nattention = []\nhead_channels = 8',
}


@pytest.mark.parametrize("kind", TABLES)
def test_a_recipe_with_it_does_not_train_resume_sample_or_evaluate(mtdiff, tmp_path, vae, kind):
    image = f'type = "latent-image"\nvae = "{vae}"' if kind == "latent" else 'type = "image"'
    (tmp_path / "recipe.toml").write_text(RECIPE.format(name=kind, image=image, backbone=TABLES[kind]))
    code, _, errors = mtdiff("run", "recipe.toml", "--out", "run", "--set", "train.checkpoint_every=2")
    assert code == 0, errors
    vae.rename(vae.with_name("gone"))  # what a run needs it has kept
    for command in (["sample", "run", "--num", 3], ["sample", "run", "--given", "label=3"],
                    ["evaluate", "run", "--num", 4, "--metric", "accuracy", "--fewer-steps", "",
                     "--bound-num", 2, "--bound-calls", 2]):  # fmt: skip
        code, _, errors = mtdiff(*command)
        assert code == 0, errors
    found = load_file(tmp_path / "run" / "samples" / "samples.safetensors")
    assert found["image"].shape == (12, 1, 8, 8)
    bounds = json.loads((tmp_path / "run" / "evaluation.json").read_text())["bound"]
    assert all(math.isfinite(one["bits_per_dimension"]["value"]) for one in bounds)


def test_a_recipe_of_the_documentation_does_not_run(mtdiff, tmp_path, vae):
    page = (CLONE / "docs" / "diffusers.md").read_text()
    whole, image = re.findall(r"```toml\n(.*?)```", page, flags=re.DOTALL)
    latent = image.replace("path/to/autoencoder", str(vae))
    for name, text in (("whole", whole), ("latent", whole.replace('[modalities.image]\ntype = "image"\n', latent))):
        (tmp_path / f"{name}.toml").write_text(text)
        few = ("train.steps=2", "train.grid_every=0", "sample.steps=2", "sample.num=2", "data.batch_size=4")
        code, _, errors = mtdiff("run", f"{name}.toml", *(a for one in few for a in ("--set", one)))
        assert code == 0, errors
        assert ("latents of pictures" in errors) == (name == "latent")


def test_an_option_that_the_documentation_names_is_not_there():
    page = (CLONE / "docs" / "diffusers.md").read_text()
    for name, cls in zip(("unet", "conditional-unet", "dit"), map(type, BACKBONES.values()), strict=True):
        (row,) = re.findall(rf"^\| `diffusers-{name}` \| `(\w+)`.* \| (.*) \|$", page, flags=re.MULTILINE)
        assert row[0] == cls.model
        assert set(re.findall(r"`(\w+)`", row[1])) <= set(cls.options())
