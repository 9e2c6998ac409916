import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import rexnet
from rexnet import cli
from rexnet.data.config import AugmentConfig
from rexnet.data.datasets import open_dataset, with_unlabelled
from rexnet.data.loaders import Batch, TrainBatches
from rexnet.data.preprocess import Preprocess
from rexnet.data.transforms import TrainTransform
from rexnet.errors import OptionError
from rexnet.training import checkpoint, classify, teachers
from rexnet.training.classification_loss import label_loss
from rexnet.training.classify import train
from rexnet.training.distillation import Guidance, distillation_loss, has_fixed_views, view_preprocess
from rexnet.training.resume import config_to_dict
from rexnet.training.run_folder import RunFolder
from rexnet.training.teacher_config import TeacherConfig
from rexnet.training.teachers import Guide, Teacher
from tests.drawings import draw_folder
from tests.training.test_classify import assert_same_weights

CLASSES = ("cat", "dog", "fox")
CPU = torch.device("cpu")
STUDENT = Preprocess(image_size_px=16, crop_ratio=1.0)
PLAIN_LABELS = partial(label_loss, label_smoothing=0.0)


class Linear(nn.Module):
    """Logits that depend on every pixel; notes the images that it sees."""

    def __init__(self, size_px: int, seed: int, num_classes: int = 3):
        super().__init__()
        weight = torch.randn(num_classes, 3 * size_px**2, generator=torch.Generator().manual_seed(seed))
        self.weight = nn.Parameter(weight / size_px)
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen.append(images.detach())
        return functional.linear(images.flatten(1), self.weight)


def make_teacher(size_px: int = 16, seed: int = 1, classes: tuple[str, ...] = CLASSES, **preprocess) -> Teacher:
    found = Preprocess(image_size_px=size_px, **preprocess)
    return Teacher(f"linear-{seed}", Linear(size_px, seed, len(classes)), classes, found, sha256=str(seed))


def make_guidance(*opened: Teacher, temperature: float = 1.0, keep: bool = False) -> Guidance:
    return Guidance([Guide(each, CLASSES) for each in opened], STUDENT, temperature=temperature, keep=keep)


def make_batch(targets: torch.Tensor, size_px: int = 16) -> Batch:
    images = torch.randn(len(targets), 3, size_px, size_px, generator=torch.Generator().manual_seed(5))
    return Batch(images, targets, torch.arange(len(targets)))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_timm(temperature):
    task = pytest.importorskip("timm.task.distillation")
    student, batch = Linear(16, 0), make_batch(torch.tensor([0, 2, 1, 1]))
    teacher = make_teacher(mean=(0.5, 0.4, 0.3), std=(0.2, 0.5, 0.1))
    student.num_classes, student.in_chans = 3, 3
    student.pretrained_cfg = {"mean": STUDENT.mean, "std": STUDENT.std}
    teacher.network.pretrained_cfg = {"mean": teacher.preprocess.mean, "std": teacher.preprocess.std}
    theirs = task.LogitDistillationTask(
        *(student, teacher.network), criterion=nn.CrossEntropyLoss(), task_loss_weight=0.3, temperature=temperature
    )(batch.images, batch.targets)
    guidance = make_guidance(teacher, temperature=temperature)
    ours = distillation_loss(student, batch, guidance=guidance, weight=0.7, label_loss=PLAIN_LABELS, device=CPU)
    assert ours["loss"].item() == pytest.approx(theirs["loss"].item(), rel=1e-4)
    right = (theirs["output"].argmax(1) == batch.targets).float().mean().item()
    assert ours["top1"].item() == pytest.approx(100 * right)


def test_an_image_without_a_label_has_the_loss_of_the_teacher_alone():
    student, batch, guidance = Linear(16, 0), make_batch(torch.tensor([0, 3, 2, 3])), make_guidance(make_teacher())
    find = partial(distillation_loss, student, guidance=guidance, label_loss=PLAIN_LABELS, device=CPU)
    logits, expected = student(batch.images), guidance.predict(batch.images, batch.indices)
    divergence = (expected.exp() * (expected - logits.log_softmax(1))).sum(1).mean()
    labels = functional.cross_entropy(logits[[0, 2]], torch.tensor([0, 2]), reduction="sum") / 4
    assert find(batch, weight=0.25)["loss"].item() == pytest.approx(
        (0.25 * divergence + 0.75 * labels).item(), rel=1e-5
    )
    assert find(batch, weight=1.0)["loss"].item() == pytest.approx(divergence.item(), rel=1e-5)
    none = batch._replace(targets=torch.full((4,), 3))
    found = find(none, weight=0.25)
    assert found["loss"].item() == pytest.approx(0.25 * divergence.item(), rel=1e-5)
    agree = (logits.argmax(1) == expected.argmax(1)).float().mean().item()
    assert found["top1"].item() == pytest.approx(100 * agree)


def test_several_teachers_are_averaged_in_the_order_of_the_classes():
    opened = make_teacher(seed=1), make_teacher(seed=2, classes=("fox", "cow", "cat", "dog"))
    views = make_batch(torch.zeros(4)).images
    found = make_guidance(*opened, temperature=2.0).predict(views, torch.arange(4)).exp()
    one, other = (each.network(views) / 2 for each in opened)
    torch.testing.assert_close(found, (one.softmax(1) + other[:, [2, 3, 0]].softmax(1)) / 2)


@pytest.mark.parametrize("padding_px", [0, 2])
def test_teacher_and_student_see_the_same_view(image_folder, tiny_config, padding_px):
    teacher = make_teacher(size_px=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.5, 0.1))
    augment = AugmentConfig(crop_padding_px=padding_px, random_erasing=0.5, mixup=0.0 if padding_px else 0.4)
    config = replace(tiny_config, augment=augment)
    preprocess = view_preprocess(config, [teacher])
    assert preprocess.image_size_px == (16 if padding_px else 24), (
        "small images are not enlarged before they are cropped"
    )
    images = open_dataset(image_folder).for_training().train
    batches = TrainBatches(images, TrainTransform(preprocess, augment), seed=3, batch_size=12)
    student = Linear(16, 0)
    for batch in batches.epoch(1):
        guidance = make_guidance(teacher)
        distillation_loss(student, batch, guidance=guidance, weight=0.5, label_loss=PLAIN_LABELS, device=CPU)
        theirs, ours = teacher.network.seen.pop(), student.seen.pop()
        assert theirs.shape[2:] == (24, 24) and ours.shape[2:] == (16, 16)
        pixels = [
            each * torch.tensor(made.std).view(3, 1, 1) + torch.tensor(made.mean).view(3, 1, 1)
            for each, made in ((theirs, teacher.preprocess), (ours, STUDENT))
        ]
        shown, largest = (pixels[1], 24) if padding_px else (pixels[0], 16)
        resized = functional.interpolate(shown, (largest, largest), mode="bicubic", antialias=True)
        torch.testing.assert_close(resized, pixels[0 if padding_px else 1], rtol=1e-4, atol=1e-5)


def test_fixed_views_are_predicted_once_with_equal_results(image_folder):
    whole = AugmentConfig(crop_scale=(1.0, 1.0), crop_aspect=(1.0, 1.0))
    assert has_fixed_views(whole) and has_fixed_views(replace(whole, horizontal_flip=0.0, label_smoothing=0.1))
    assert not has_fixed_views(AugmentConfig()) and not has_fixed_views(replace(whole, random_erasing=0.1))
    images = open_dataset(image_folder).for_training().train
    batches = TrainBatches(images, TrainTransform(STUDENT, whole), seed=0, batch_size=9)
    teacher = make_teacher()
    kept, plain = make_guidance(teacher, keep=True), make_guidance(teacher)
    computed = []
    for epoch in range(8):
        for batch in batches.epoch(epoch):
            teacher.network.seen.clear()
            found = kept.predict(batch.images, batch.indices)
            computed.append(len(teacher.network.seen))
            torch.testing.assert_close(found, plain.predict(batch.images, batch.indices))
    views = 2 * 2 * len(images), "mirrored or not, in one of two interpolations"
    assert len(images) < sum(computed) <= views[0] and sum(computed[-4:]) < sum(computed[:4])


class TestRun:
    @pytest.fixture
    def teacher(self, trained_run) -> Teacher:
        """A trained network of other classes."""
        model = rexnet.load(trained_run)
        return Teacher("teacher", model, ("x", "y", "z"), model.preprocess, sha256="1")

    @pytest.fixture
    def config(self, tiny_config, tmp_path):
        """A run with images without labels, in folders of any depth."""
        draw_folder(tmp_path / "more" / "deep", train=3, val=1, first_seed=200)
        settings = TeacherConfig(teacher=("teacher",), unlabelled=str(tmp_path / "more"))
        return replace(tiny_config, augment=AugmentConfig(horizontal_flip=0.5), teacher=settings)

    @pytest.mark.seconds
    def test_a_classifier_is_fitted_and_recorded(self, config, teacher, caplog):
        caplog.set_level("INFO")
        train(config, [teacher])
        run = RunFolder(config.run.output)
        (row,) = run.read("teachers.json")["teachers"]
        assert row["classifier"] == "fitted" and row["val_top1"] > 90.0
        assert f"teacher teacher: top-1 {row['val_top1']:.1f} % on the validation images" in caplog.text
        saved = run.read("config.json")["teacher"]
        assert saved["teacher_sha256"] == ["1"] and len(saved["unlabelled_sha256"]) == 64
        assert {"train_loss", "train_top1", "val_top1"} <= run.rows()[-1].keys()

    @pytest.mark.seconds
    def test_the_command_opens_a_teacher_of_the_same_classes(self, image_folder, trained_run, tmp_path, capsys):
        arguments = f"train {image_folder} --model rexnet --width 0.1 --image-size 16 --epochs 1 --device cpu"
        cli.main([*arguments.split(), "--teacher", str(trained_run), "--output", str(tmp_path / "run")])
        (row,) = RunFolder(tmp_path / "run").read("teachers.json")["teachers"]
        assert row["classifier"] == "its own" and row["val_top1"] > 90.0
        assert RunFolder(tmp_path / "run").read("config.json")["teacher"]["teacher"] == [str(trained_run)]

    @pytest.mark.seconds
    def test_a_resumed_run_ends_with_equal_weights(self, config, teacher, changed, tmp_path, monkeypatch):
        straight = changed(config, "run", output=str(tmp_path / "straight"))
        train(straight, [teacher])
        calls, plain = iter(range(100)), classify.distillation_loss

        def dies(*arguments, **options):
            if next(calls) == 9:
                raise KeyboardInterrupt
            return plain(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(classify, "distillation_loss", dies)
            train(changed(config, "run", save_minutes=1e-9, workers=1), [teacher])
        monkeypatch.setattr(teachers, "compute_features", None)
        train(changed(config, "run", resume=True), [teacher])
        assert_same_weights(RunFolder(straight.run.output).last, RunFolder(config.run.output).last)

    @pytest.mark.seconds
    def test_another_teacher_or_folder_is_another_run(self, config, teacher, changed):
        train(changed(config, "schedule", epochs=1), [teacher])
        again = changed(changed(config, "schedule", epochs=1), "run", resume=True)
        moved = changed(again, "teacher", teacher=("elsewhere",))
        train(moved, [teacher._replace(name="elsewhere")])
        with pytest.raises(ValueError, match=r"--teacher-sha256 \('2',\) \(was \('1',\)\)"):
            train(again, [teacher._replace(sha256="2")])
        with pytest.raises(OptionError, match="--teacher is"):
            train(again)
        next(Path(config.teacher.unlabelled).rglob("*.png")).unlink()
        with pytest.raises(ValueError, match="--unlabelled-sha256"):
            train(again, [teacher])


PROGRAM = """
import json, sys
import torch
from rexnet.deploy.teachers import open_teachers
from rexnet.training import classify
from rexnet.training.config import TrainConfig
from rexnet.training.resume import config_from_dict

torch.set_num_threads(1)
config = config_from_dict(TrainConfig, json.loads(sys.argv[1]))
classify.train(config, open_teachers(config.teacher))
"""


@pytest.mark.slow
def test_two_processes_learn_like_one(tiny_config, trained_run, changed, tmp_path):
    """The classifier is fitted on the features of both; without norms of each batch the weights are those of one."""
    weights = changed(tiny_config, "run", output=str(tmp_path / "start"))
    train(weights)
    draw_folder(tmp_path / "more", train=8, val=0, first_seed=200)
    content = checkpoint.read(trained_run / "best.pt")
    checkpoint.save(tmp_path / "teacher.pt", {**content, "classes": ["x", "y", "z"]})
    settings = TeacherConfig(teacher=(str(tmp_path / "teacher.pt"),), unlabelled=str(tmp_path / "more"))
    config = replace(tiny_config, teacher=settings, augment=AugmentConfig(horizontal_flip=0.5))
    network = {"weights": str(tmp_path / "start"), "drop_rate": 0.0, "drop_path_rate": 0.0}
    config = changed(changed(config, "network", **network), "transfer", bn="frozen")
    config = changed(changed(config, "optim", lr=1e-3), "schedule", epochs=1)
    found = []
    for processes, batch_size in ((1, 8), (2, 4)):
        again = changed(config, "run", batch_size=batch_size, output=str(tmp_path / str(processes)))
        starter = [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        (tmp_path / "program.py").write_text(PROGRAM)
        command = [sys.executable, *starter, str(tmp_path / "program.py"), json.dumps(config_to_dict(again))]
        done = subprocess.run(command, timeout=300, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(RunFolder(again.run.output))
    one, two = found
    assert one.read("teachers.json") == two.read("teachers.json")
    states = [checkpoint.read(run.last)["state_dict"] for run in found]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=1e-3, atol=1e-5, msg=key)


def test_images_without_labels_are_those_in_neither_split(image_folder):
    sets = open_dataset(image_folder).for_training(shots=2)
    images = with_unlabelled(sets, str(image_folder / "."))
    assert len(images) == 6 + 30 and images.targets[:6].tolist() == sets.train.targets.tolist()
    assert set(images.targets[6:].tolist()) == {3}
    labelled = {sets.train.name(index) for index in range(6)} | {sets.val.name(index) for index in range(12)}
    names = [images.name(index) for index in range(len(images))]
    assert len(set(names)) == 36 and not {str(Path(name)) for name in names[6:]} & labelled
    assert np.array_equal(images.load(7), rexnet.data.decode.open_image(names[7]))
    with pytest.raises(ValueError, match="name a folder with other images"):
        with_unlabelled(open_dataset(image_folder).for_training(), str(image_folder / "val"))


def test_copies_of_labelled_images_are_not_images_without_labels(image_folder, tmp_path):
    sets = open_dataset(image_folder).for_training(shots=2)
    pool = tmp_path / "pool"
    pool.mkdir()
    for split in (sets.train, sets.val):
        for index in range(len(split)):
            shutil.copy(split.name(index), pool / f"{len(list(pool.iterdir()))}.png")
    other = pool / "other.png"
    content = bytearray(Path(sets.val.name(0)).read_bytes())
    content[-1] ^= 1  # of the same size
    other.write_bytes(content)
    images = with_unlabelled(sets, str(pool))
    assert [images.name(index) for index in range(6, len(images))] == [str(other)]


@pytest.mark.parametrize(
    ("group", "change", "message"),
    [
        ("transfer", {"freeze": "all"}, "--freeze is all"),
        ("schedule", {"max_minutes": 5}, "--max-minutes is 5; allowed: None, with --teacher"),
        ("augment", {"mixup": 0.2}, "--mixup is 0.2"),
        ("input", {"balance": "sampler"}, "--balance is sampler"),
        ("teacher", {"teacher": ()}, "--unlabelled is more, which has no effect without --teacher"),
        ("teacher", {"temperature": 0}, "--temperature is 0"),
        ("teacher", {"distillation_weight": 1.5}, "--distillation-weight is 1.5"),
        ("teacher", {"teacher": ("a", "b"), "teacher_weights": "w"}, "--teacher-weights is w with 2 teachers"),
    ],
)
def test_settings_without_effect_are_refused(tiny_config, changed, group, change, message):
    config = changed(tiny_config, "teacher", teacher=("a",), unlabelled="more")
    with pytest.raises(ValueError, match=message):
        changed(config, group, **change)
