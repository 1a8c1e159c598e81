"""Saving beside training: what is saved, who is told and when, and that no way out of training cuts a save short."""

import errno
import gc
import signal
import threading
import time
import weakref

import pytest
import torch

from mtdiff_core.errors import InterruptedRunError, UserError
from mtdiff_core.registry.hookspecs import hookimpl
from mtdiff_core.training import checkpoint as checkpoints
from mtdiff_core.training import saving
from mtdiff_core.training.checkpoint import find_checkpoint, optimizer_tensors
from mtdiff_core.training.saving import BackgroundSaver, in_host_memory

PATIENCE = 20  # seconds until what should have happened counts as missing
SLOW = 0.2  # seconds that a slow disk takes for a file: some steps


class Listener:
    """A lifecycle plugin that notes what was saved, and where it was told of it."""

    def __init__(self):
        self.saved, self.threads = [], set()

    @hookimpl
    def mtdiff_checkpoint_saved(self, step, checkpoint):
        assert find_checkpoint(checkpoint.parent).path == checkpoint, "told of before it was whole"
        self.saved.append(step)
        self.threads.add(threading.current_thread())


def fit(trainer, stop_requested=lambda: False):
    listener = Listener()
    with trainer.registry.registered(listener):
        trainer.fit(stop_requested)
    return listener


@pytest.fixture
def writing(monkeypatch):
    """Do something before each file of a checkpoint is written, given its path."""
    real = checkpoints._write_synced

    def patch(before):
        def write(path, data):
            before(path)
            real(path, data)

        monkeypatch.setattr(checkpoints, "_write_synced", write)

    return patch


def slowly(_path):
    time.sleep(SLOW)


def at_step(trainer, step, action):
    """Do something when a step begins."""
    real = trainer.optimize

    def optimize(batch):
        if trainer.step == step:
            action()
        return real(batch)

    trainer.optimize = optimize


def test_training_stands_still_until_a_checkpoint_is_written(make_trainer, writing):
    trainer = make_trainer("train.steps=3", "train.checkpoint_every=2")
    went_on = threading.Event()
    waited = []
    writing(lambda path: waited.append(went_on.wait(PATIENCE)) if ".step-2." in str(path) else None)
    at_step(trainer, 3, went_on.set)
    assert fit(trainer).saved == [2, 3]
    assert waited
    assert all(waited)


def test_steps_taken_meanwhile_get_into_a_checkpoint(make_trainer, writing):
    trainer = make_trainer("train.steps=5", "train.checkpoint_every=3", "train.ema_snapshots=0")
    two_steps_on, expected = threading.Event(), {}
    writing(lambda path: two_steps_on.wait(PATIENCE))

    def note():
        state = {"model": trainer.model.state_dict(), "ema": trainer.ema.model.state_dict()}
        state["optimizer"] = optimizer_tensors(trainer.optimizer, trainer.model)
        expected.update({part: {n: x.clone() for n, x in tensors.items()} for part, tensors in state.items()})
        expected["loader"] = trainer.loader.state_dict()["number"] - 1  # the batch of step 4 is out

    at_step(trainer, 4, note)
    at_step(trainer, 5, two_steps_on.set)
    fit(trainer)
    saved = find_checkpoint(trainer.directory.checkpoints, (3).__eq__)
    assert saved.state["loader"]["number"] == expected.pop("loader") == 3
    for part, tensors in expected.items():
        loaded = saved.load(part)
        assert loaded.keys() == tensors.keys()
        assert all(loaded[name].equal(tensors[name]) for name in tensors), part


def test_two_checkpoints_are_written_at_a_time_or_not_in_their_order(make_trainer, monkeypatch):
    real, active, order = saving.save_checkpoint, [], []

    def save(folder, tensors, state, **options):
        active.append(state["step"])
        assert len(active) == 1
        time.sleep(SLOW)
        path = real(folder, tensors, state, **options)
        order.append(active.pop())
        return path

    monkeypatch.setattr(saving, "save_checkpoint", save)
    assert (
        fit(make_trainer("train.steps=4", "train.checkpoint_every=1", "train.ema_snapshots=0")).saved
        == order
        == [1, 2, 3, 4]
    )


def test_plugins_are_told_of_a_checkpoint_by_the_thread_that_writes_it(make_trainer):
    listener = fit(make_trainer("train.steps=4"))
    assert listener.saved == [2, 4]
    assert listener.threads == {threading.main_thread()}


def test_a_failed_save_goes_unnoticed_or_takes_the_checkpoint_before_with_it(make_trainer, writing):
    trainer = make_trainer("train.steps=1000", "train.checkpoint_every=2")
    listener = Listener()

    def fill_up(path):
        if path.parent.name == ".step-4.partial":
            raise OSError(errno.ENOSPC, "No space left on device")

    writing(fill_up)
    with (
        trainer.registry.registered(listener),
        pytest.raises(UserError, match="cannot save the checkpoint of step 4: the disk is full"),
    ):
        trainer.fit(lambda: False)
    assert trainer.step <= 6, "another checkpoint was begun after the one that failed"
    assert listener.saved == [2]
    assert find_checkpoint(trainer.directory.checkpoints).step == 2


def test_an_error_amid_training_cuts_a_save_short(make_trainer, writing):
    trainer = make_trainer("train.steps=4")
    listener = Listener()
    writing(slowly)

    def fail():
        raise RuntimeError("out of memory")

    at_step(trainer, 3, fail)
    with trainer.registry.registered(listener), pytest.raises(RuntimeError, match="out of memory"):
        trainer.fit(lambda: False)
    assert listener.saved == [2]


def test_a_stop_is_reported_before_its_checkpoint_is_whole(make_trainer, writing):
    trainer = make_trainer("train.steps=9", "train.checkpoint_every=9")
    writing(slowly)
    with pytest.raises(InterruptedRunError, match="stopped after step 3; the checkpoint is saved") as raised:
        fit(trainer, lambda: trainer.step == 3)
    assert raised.value.__context__ is None
    assert find_checkpoint(trainer.directory.checkpoints).step == 3


def test_a_stop_on_a_full_disk_says_that_the_checkpoint_is_saved(make_trainer, writing):
    trainer = make_trainer("train.steps=9", "train.checkpoint_every=9", "train.ema_snapshots=0")

    def fill_up(_path):
        raise OSError(errno.ENOSPC, "No space left on device")

    writing(fill_up)
    with pytest.raises(UserError, match="cannot save the checkpoint of step 3: the disk is full"):
        fit(trainer, lambda: trainer.step == 3)


def test_a_run_goes_back_past_the_checkpoint_that_is_being_written(make_trainer, writing):
    trainer = make_trainer("train.steps=6", "train.checkpoint_every=2", "train.max_skipped=1")
    writing(slowly)
    real = trainer.loss

    def loss(*arguments):
        total, terms = real(*arguments)
        return total * (float("nan") if trainer.step == 5 and trainer.went_back_to < 0 else 1), terms

    trainer.loss = loss
    fit(trainer)
    assert trainer.went_back_to == 4


def test_samples_are_drawn_while_a_checkpoint_is_written(make_trainer, writing, tmp_path):
    newest = []

    def draw(_model, _step):
        newest.append(find_checkpoint(trainer.directory.checkpoints).step)
        return tmp_path / "grid.png"

    trainer = make_trainer("train.steps=5", "train.checkpoint_every=2", "train.grid_every=3", draw_grid=draw)
    writing(slowly)
    fit(trainer)
    assert newest == [2]


def test_an_interrupted_wait_forgets_the_save():
    saver, gate, told = BackgroundSaver(), threading.Event(), []
    saver.begin(lambda: gate.wait(PATIENCE), tell=lambda: told.append(1))

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            saver.finish()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert not told
    gate.set()
    saver.finish()
    assert told == [1]


def test_a_trainer_and_its_workers_live_on_after_it_is_dropped(make_trainer):
    trainer = make_trainer()
    fit(trainer)
    alive = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert alive() is None
    finally:
        gc.enable()


def test_a_copy_shares_memory_with_what_is_trained_or_keeps_its_layout():
    weight = torch.nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
    copy = in_host_memory({"w": weight})["w"]
    assert copy.equal(weight.detach())
    assert copy.is_contiguous()
    assert not copy.requires_grad
    assert copy.untyped_storage().data_ptr() != weight.untyped_storage().data_ptr()
