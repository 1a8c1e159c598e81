"""Averages chosen after training: their closed form, what others are made of, and that a resumed run keeps the same."""

import itertools
import math
import shutil

import pytest
import safetensors.torch
import torch

from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.training.checkpoint import find_checkpoint, steps_of_checkpoints
from mtdiff_core.training.posthoc import (
    PowerFunctionAverages,
    Profile,
    averaged_weights,
    coefficients,
    exponent,
    inner_product,
)
from mtdiff_core.training.trainer import Trainer

LENGTHS = [0.005, 0.05, 0.1, 0.15, 0.25, 0.28]


def shares(n, sigma_rel):
    """What each of n updates counts for, in closed form."""
    moments = torch.linspace(0, 1, n + 1, dtype=torch.float64) ** (exponent(sigma_rel) + 1)
    return moments.diff()


def density(profile, times):
    gamma = exponent(profile.sigma_rel)
    inside = (times / profile.updates).clamp(max=1) ** gamma * (gamma + 1) / profile.updates
    return torch.where(times <= profile.updates, inside, 0.0)


class Weights(torch.nn.Module):
    """Some weights that a test moves."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((3,), 1e6, dtype=torch.float64))

    def set(self, values):
        with torch.no_grad():
            self.weight.copy_(values)


def track(trajectory, lengths):
    """The averages over a trajectory, float64 ``(n, 3)``, after each update."""
    model = Weights()
    averages = PowerFunctionAverages(model, lengths)
    for number, values in enumerate(trajectory, start=1):
        model.set(values)
        averages.update(torch.tensor(number), torch.tensor(True))
        yield {length: averages.averages[length]["weight"].clone() for length in lengths}


def random_walk(n):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(dim=0)


# Profiles


@pytest.mark.parametrize("sigma_rel", LENGTHS)
def test_the_exponent_gives_a_profile_of_another_standard_deviation(sigma_rel):
    times = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    weight = density(Profile(1, sigma_rel), times) / 400_000
    mean = (weight * times).sum()
    assert float((weight * (times - mean) ** 2).sum().sqrt()) == pytest.approx(sigma_rel, rel=1e-4)


def test_the_published_pair_of_exponent_and_length_is_missed():
    # Karras et al. 2024: sigma_rel 0.05 and 0.10 are gamma 16.97 and 6.94
    assert exponent(0.05) == pytest.approx(16.97, abs=0.005)
    assert exponent(0.10) == pytest.approx(6.94, abs=0.005)


@pytest.mark.parametrize("sigma_rel", LENGTHS)
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_tracked_average_weighs_the_updates_otherwise_than_its_profile(n, sigma_rel):
    trajectory = random_walk(n)
    *_, last = track(trajectory, [sigma_rel])
    torch.testing.assert_close(last[sigma_rel], shares(n, sigma_rel) @ trajectory, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("t", "u"), [(1.0, 1.0), (0.3, 1.0), (1.0, 0.6)])
@pytest.mark.parametrize(("s", "r"), [(0.05, 0.05), (0.05, 0.1), (0.25, 0.05)])
def test_the_inner_product_is_not_the_integral(t, u, s, r):
    one, other = Profile(t, s), Profile(u, r)
    times = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    expected = (density(one, times) * density(other, times)).mean()
    assert inner_product(one, other) == pytest.approx(float(expected), rel=1e-4)


# Making one of others


def stored(updates, lengths=(0.05, 0.1)):
    return [Profile(t, length) for t in updates for length in lengths]


@pytest.mark.parametrize("wanted", range(12))
def test_a_stored_profile_is_made_of_others_besides(wanted):
    profiles = stored(range(250, 1501, 250))
    found, distance = coefficients(profiles, profiles[wanted])
    expected = torch.zeros(12, dtype=torch.float64)
    expected[wanted] = 1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert distance < 1e-6


@pytest.mark.parametrize("sigma_rel", [0.01, 0.03, 0.07, 0.15, 0.25])
def test_the_distance_is_another_than_that_of_the_profiles_or_the_coefficients_do_not_sum_to_one(sigma_rel):
    profiles, goal = stored(torch.linspace(0, 1, 10)[1:].tolist()), Profile(1, sigma_rel)
    found, distance = coefficients(profiles, goal)
    assert float(found.sum()) == pytest.approx(1, abs=1e-9)
    times = (torch.arange(400_000, dtype=torch.float64) + 0.5) / 400_000
    made = sum(share * density(profile, times) for share, profile in zip(found, profiles, strict=True))
    wanted = density(goal, times)
    expected = float(((made - wanted) ** 2).mean().sqrt() / (wanted**2).mean().sqrt())
    assert distance == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_more_snapshots_do_not_come_closer():
    few, many = (coefficients(stored(range(1, n + 1)), Profile(n, 0.15))[1] for n in (4, 16))
    assert many < few / 4


@pytest.mark.parametrize("sigma_rel", [0.04, 0.07, 0.15, 0.2])
def test_an_average_made_afterwards_is_not_the_one_that_was_tracked(sigma_rel):
    trajectory, n = random_walk(900), 900
    after = list(track(trajectory, [0.05, 0.1, sigma_rel]))
    times = range(100, n + 1, 100)
    found, _ = coefficients(stored(times), Profile(n, sigma_rel))
    parts = [after[t - 1][length] for t in times for length in (0.05, 0.1)]
    made = sum(share * part for share, part in zip(found, parts, strict=True))
    direct = after[-1][sigma_rel]
    nearest = min((after[-1][length] - direct).norm() for length in (0.05, 0.1))
    assert (made - direct).norm() < 0.3 * nearest


def test_averages_of_equal_updates_are_singular():
    found, distance = coefficients(stored([5, 5, 9]), Profile(9, 0.1))
    assert distance < 1e-6
    assert found.isfinite().all()


# In a run


SETTINGS = ("train.steps=45", "train.checkpoint_every=100", "train.learning_rate=0.01")


def stack(tensors):
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


def test_a_trained_model_s_average_made_afterwards_is_not_the_one_that_was_tracked(make_trainer):
    trainer = make_trainer(*SETTINGS)
    lengths = (0.05, 0.07, 0.1, 0.15)
    direct, real = PowerFunctionAverages(trainer.model, lengths), trainer.averages.update
    trainer.averages.update = lambda *arguments: (real(*arguments), direct.update(*arguments))
    trainer.fit(lambda: False)
    checkpoint = find_checkpoint(trainer.directory.checkpoints)
    assert steps_of_checkpoints(trainer.directory.averages) == [5, 10, 15, 20, 25, 30, 35, 40]
    made = {
        wanted: stack(averaged_weights(trainer.directory.averages, checkpoint, (0.05, 0.1), wanted))
        for wanted in lengths
    }
    tracked = {length: stack(direct.averages[length]) for length in lengths}
    for stored_length in (0.05, 0.1):
        torch.testing.assert_close(made[stored_length], tracked[stored_length], rtol=0, atol=1e-6)
    for wanted, nearest in ((0.07, 0.05), (0.15, 0.1)):
        distance = (tracked[wanted] - tracked[nearest]).norm()
        assert (made[wanted] - tracked[wanted]).norm() < 0.2 * distance


def test_averages_of_a_checkpoint_before_the_end_are_made_of_later_ones(make_trainer):
    trainer = make_trainer(*SETTINGS, "train.keep_every=20", "train.checkpoint_every=20")
    at_20 = {}

    def stopped():
        if trainer.step == 20:
            at_20.update({name: x.clone() for name, x in trainer.averages.state_dict().items()})
        return False

    trainer.fit(stopped)
    checkpoint = find_checkpoint(trainer.directory.checkpoints, (20).__eq__)
    made = averaged_weights(trainer.directory.averages, checkpoint, (0.05, 0.1), 0.1)
    expected = {name.removeprefix("0.1/"): x for name, x in at_20.items() if name.startswith("0.1/")}
    torch.testing.assert_close(stack(made), stack(expected), rtol=0, atol=1e-6)


def test_the_usual_average_depends_on_those_that_are_tracked_besides(make_trainer):
    with_them, without = make_trainer(folder="with"), make_trainer("train.ema_snapshots=0", folder="without")
    for trainer in (with_them, without):
        trainer.fit(lambda: False)
    one, other = (
        (trainer.directory.checkpoints / "step-4" / "ema.safetensors").read_bytes() for trainer in (with_them, without)
    )
    assert one == other
    assert not without.directory.averages.exists()
    assert not find_checkpoint(without.directory.checkpoints).load("averages")


def test_steps_that_were_left_out_count_in_the_averages(make_trainer, monkeypatch):
    trainer = make_trainer("train.steps=6")
    numbers, real, backward = [], trainer.averages.update, Trainer._backward

    def update(number, counts):
        before = {name: x.clone() for name, x in trainer.averages.state_dict().items()}
        real(number, counts)
        if all(x.equal(before[name]) for name, x in trainer.averages.state_dict().items()):
            return
        numbers.append(int(number))

    trainer.averages.update = update

    def spoilt(self, batch):
        for terms in backward(self, batch):
            yield {name: term * (math.nan if self.step == 3 else 1) for name, term in terms.items()}

    monkeypatch.setattr(Trainer, "_backward", spoilt)
    trainer.fit(lambda: False)
    assert numbers == [1, 2, 3, 4, 5]


def test_a_run_that_goes_back_keeps_averages_of_steps_that_do_not_count(make_trainer, monkeypatch):
    trainer = make_trainer("train.steps=9", "train.checkpoint_every=2", "train.max_skipped=2")
    backward, number, left = Trainer._backward, itertools.count(1), []

    class Listener:
        @hookimpl
        def mtdiff_run_went_back(self, step):
            left.append((step, steps_of_checkpoints(trainer.directory.averages)))

    def spoilt(self, batch):
        bad = next(number) in (6, 7)
        for terms in backward(self, batch):
            yield {name: term * (math.nan if bad else 1) for name, term in terms.items()}

    monkeypatch.setattr(Trainer, "_backward", spoilt)
    with trainer.registry.registered(Listener()):
        trainer.fit(lambda: False)
    assert left == [(4, [1, 2, 3, 4])]
    assert steps_of_checkpoints(trainer.directory.averages) == [1, 2, 3, 4, 5, 6, 7, 8]


# From the command line


def settings(*more):
    return [part for one in ("train.steps=12", "train.checkpoint_every=6", *more) for part in ("--set", one)]


def kept(run):
    files = (path for path in (run / "averages").rglob("*") if path.is_file())
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def test_a_resumed_run_keeps_other_averages_or_those_of_steps_it_takes_again(mtdiff, tiny, tmp_path):
    for name in ("whole", "again"):
        assert mtdiff("run", tiny, "--out", name, *settings())[0] == 0
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert len(steps_of_checkpoints(whole / "averages")) == 8
    # As if it had been killed amid keeping those of step 9; and something of a step that keeps none
    shutil.rmtree(again / "checkpoints" / "step-12")
    shutil.rmtree(again / "averages" / "step-11")
    (again / "averages" / "step-9").rename(again / "averages" / ".step-9.partial")
    shutil.copytree(again / "averages" / "step-7", again / "averages" / "step-10")
    assert kept(again) != kept(whole)
    assert mtdiff("run", tiny, "--out", "again", "--resume", *settings())[0] == 0
    assert kept(again) == kept(whole)
    ends = [(run / "checkpoints" / "step-12" / "averages.safetensors").read_bytes() for run in (whole, again)]
    assert ends[0] == ends[1]


@pytest.fixture
def run(mtdiff, tiny):
    code, _, errors = mtdiff("run", tiny, "--out", "run", *settings())
    assert code == 0, errors


def sampled(mtdiff, tmp_path, name, *arguments):
    code, _, errors = mtdiff("sample", "run", "--num", 2, "--steps", 2, "--out", name, *arguments)
    assert code == 0, errors
    return safetensors.torch.load_file(tmp_path / name / "samples.safetensors")["image"]


@pytest.mark.usefixtures("run")
def test_samples_are_made_with_another_average_than_the_one_chosen(mtdiff, tmp_path):
    usual, long = (sampled(mtdiff, tmp_path, name, *more) for name, more in (("a", ()), ("b", ("--ema", 0.15))))
    stored = sampled(mtdiff, tmp_path, "c", "--ema", 0.05)
    assert not usual.equal(long)
    assert not usual.equal(stored)
    assert not long.equal(stored)
    assert sampled(mtdiff, tmp_path, "d", "--ema", 0.15).equal(long)


@pytest.mark.usefixtures("run")
def test_a_job_of_another_average_is_gone_on_with(mtdiff, tmp_path):
    sampled(mtdiff, tmp_path, "a", "--ema", 0.15)
    code, _, errors = mtdiff("sample", "run", "--num", 2, "--steps", 2, "--out", "a", "--resume", "--ema", 0.1)
    assert code == 2
    assert "weights" in errors


@pytest.mark.usefixtures("run")
def test_figures_of_a_chosen_average_take_the_place_of_the_run_s_own(mtdiff, tmp_path):
    less = ("--num", 8, "--no-bound", "--fewer-steps", "", "--metric", "accuracy", "--steps", 2)
    code, _, errors = mtdiff("evaluate", "run", "--ema", 0.15, *less)
    assert code == 0, errors
    assert '"ema": 0.15' in (tmp_path / "run" / "evaluation-ema-0.15" / "evaluation.json").read_text()
    assert not (tmp_path / "run" / "evaluation.json").exists()


def refused(mtdiff, *arguments):
    code, _, errors = mtdiff("sample", "run", "--num", 1, *arguments)
    assert code == 2
    assert "Traceback" not in errors
    return errors


@pytest.mark.usefixtures("run")
def test_an_average_that_cannot_be_made_is_sampled_from(mtdiff, tmp_path):
    errors = refused(mtdiff, "--ema", 0.01)
    assert "an average of sigma_rel 0.01 cannot be made of those kept" in errors
    assert "more of train.ema_snapshots reach farther" in errors
    assert "cannot be made" in refused(mtdiff, "--ema", "nan")
    assert "--ema" in refused(mtdiff, "--ema", 0.5)
    file = tmp_path / "run" / "averages" / "step-7" / "averages.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "step-7/averages.safetensors: is damaged" in refused(mtdiff, "--ema", 0.15)


def test_a_run_that_kept_no_averages_is_sampled_from_with_another(mtdiff, tiny):
    assert mtdiff("run", tiny, "--out", "run", "--set", "train.ema_snapshots=0")[0] == 0
    errors = refused(mtdiff, "--ema", 0.15)
    assert "no averages were kept" in errors
    assert "train.ema_snapshots is above 0" in errors
