import tarfile

import pytest
import timm
import torch

from rexnet.data.datasets import open_dataset
from rexnet.data.loaders import EvalBatches
from rexnet.deploy.config import ExportConfig
from rexnet.deploy.export import export_files
from rexnet.deploy.teachers import open_teachers
from rexnet.detection import create_detector
from rexnet.detection.checkpoints import pack
from rexnet.errors import OptionError, WeightsError
from rexnet.training import checkpoint
from rexnet.training.teacher_config import TeacherConfig
from tests.networks import with_measured_statistics


def open_one(name, **settings):
    (teacher,) = open_teachers(TeacherConfig(teacher=(str(name),), **settings))
    return teacher


def test_an_exported_file_teaches_like_its_checkpoint(trained_run, tmp_path):
    path = tmp_path / "teacher.onnx"
    export_files(ExportConfig(model=str(trained_run), output=str(path)))
    ours, graph = open_one(trained_run), open_one(path)
    assert ours.classes == graph.classes == ("cat", "dog", "fox") and ours.preprocess == graph.preprocess
    images = torch.randn(3, 3, 24, 24)
    with torch.no_grad():
        torch.testing.assert_close(graph.network(images), ours.network(images), rtol=1e-3, atol=1e-4)
    assert len({ours.sha256, graph.sha256, open_one(trained_run / "best.pt").sha256}) == 2


def test_weights_from_a_file_make_a_network_of_timm_a_teacher(tmp_path):
    model = with_measured_statistics(timm.create_model("mobilenetv3_small_050"))
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    teacher = open_one("timm/mobilenetv3_small_050", teacher_weights=str(tmp_path / "weights.pth"))
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(teacher.network(images), model(images))
    assert len(teacher.classes) == 1000 and teacher.preprocess.mean == model.pretrained_cfg["mean"]
    state = model.state_dict()
    state["classifier.bias"] += 1
    torch.save(state, tmp_path / "other.pth")
    other = open_one("timm/mobilenetv3_small_050", teacher_weights=str(tmp_path / "other.pth"))
    assert other.sha256 != teacher.sha256


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/efficientnet_lite4", "--teacher timm/efficientnet_lite4: .* give a file with --teacher-weights"),
        ("rexnet_lite_050", "there are no published weights of rexnet_lite_050"),
        ("nothing.pt", "there is no file 'nothing.pt'"),
        ("torchvision.models:resnet18", "is module:factory; allowed"),
        ("timm/efficientnet_b0.none", "Invalid pretrained tag"),
    ],
)
def test_a_teacher_without_trained_weights_is_refused(name, message):
    with pytest.raises(WeightsError, match=message) as error:
        open_one(name)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, OptionError) == ("allowed" in message)  # exit code 2


def test_a_detector_is_refused(tmp_path):
    model = create_detector("ssdlite", backbone="rexnet_010", num_classes=2, min_size_px=96, max_size_px=96)
    checkpoint.save(tmp_path / "detector.pt", pack(model, {}, classes=("a", "b"), category_ids=(1, 2)))
    with pytest.raises(OptionError, match="is a detector"):
        open_one(tmp_path / "detector.pt")


@pytest.mark.slow
def test_a_teacher_trained_on_imagenet(shared_data, tmp_path):
    """Its normalisation is that of timm's name for it: with ImageNet's mean it names 70.2 % of the images."""
    from imagenet_network import MODEL, write_weights

    with tarfile.open(shared_data / "imagenet_sample.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    teacher = open_one(MODEL, teacher_weights=str(write_weights(tmp_path / "weights.pth")))
    images = open_dataset(tmp_path).for_measuring(teacher.classes)
    with torch.inference_mode():
        batches = EvalBatches(images, teacher.preprocess, batch_size=20)
        top5 = torch.cat([teacher.network(batch.images).topk(5).indices for batch in batches])
    right = top5 == torch.from_numpy(images.targets)[:, None]
    assert (right[:, 0].sum(), right.any(1).sum()) == (442, 486)
