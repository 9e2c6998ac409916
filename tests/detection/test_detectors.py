import copy
import json
import logging
import subprocess
import sys

import pytest
import torch
from torch import nn

import rexnet
from rexnet.detection.detectors import DetectorConfig, build_detector, create_detector
from rexnet.errors import WeightsError
from rexnet.models.variants import model_config

KINDS = ("faster_rcnn", "mask_rcnn", "ssdlite")


def finite(losses) -> bool:
    return bool(losses) and all(loss.isfinite() for loss in losses.values())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boxes", [0, 2])
@pytest.mark.parametrize("count", [1, 2])
def test_training_takes_one_image_and_images_without_objects(tiny_detector, detection_batch, kind, boxes, count):
    model = tiny_detector(kind)
    images, targets = detection_batch(count, boxes=boxes)
    losses = model(images, targets)
    assert finite(losses) and ("loss_mask" in losses) == (kind == "mask_rcnn")
    sum(losses.values()).backward()
    # Every one of them, images without objects too: distributed training waits for all.
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("objects", [(0, 0), (0, 2), (2, 0)])
def test_an_image_without_objects_has_a_loss_in_any_batch(tiny_detector, detection_batch, kind, objects):
    """Its pixels have a gradient; norms that stand still let no other image through."""
    model = tiny_detector(kind)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    images, targets = zip(
        *((batch[0][0], batch[1][0]) for batch in (detection_batch(1, boxes=n) for n in objects)), strict=True
    )
    images = [image.clone().requires_grad_() for image in images]
    losses = model(images, [{name: value.clone() for name, value in target.items()} for target in targets])
    total = sum(losses.values())
    total.backward()
    assert total > 0 and all(image.grad.any() for image in images)


@pytest.mark.parametrize("kind", KINDS)
def test_double_precision_trains_and_detects(tiny_detector, detection_batch, kind):
    model = tiny_detector(kind).double()
    images, targets = detection_batch(2)
    images = [image.double() for image in images]
    targets = [{name: v.double() if v.is_floating_point() else v for name, v in target.items()} for target in targets]
    losses = model(images, targets)
    assert finite(losses)
    sum(losses.values()).backward()
    assert all(output["boxes"].dtype == torch.float64 for output in model.eval()(images))


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_and_channels_last_train_and_detect_with_exact_coordinates(tiny_detector, detection_batch, kind):
    model = tiny_detector(kind).to(memory_format=torch.channels_last)
    images, targets = detection_batch(2)
    seen = {}
    generator = next(module for name, module in model.named_modules() if name.endswith("anchor_generator"))
    generator.register_forward_hook(lambda _module, _inputs, anchors: seen.update(anchors=anchors))
    if kind != "ssdlite":
        model.rpn.register_forward_hook(lambda _module, _inputs, outputs: seen.update(proposals=outputs[0]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(images, targets)
        half = seen["anchors"]
        assert finite(losses)
        outputs = model.eval()(images)
    sum(losses.values()).backward()
    for boxes in seen.get("proposals", []):
        assert boxes.dtype == torch.float32
    with torch.no_grad():
        model(images)
    for ours, exact in zip(half, seen["anchors"], strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, exact)
    for output, image in zip(outputs, images, strict=True):
        assert output["boxes"].dtype == output["scores"].dtype == torch.float32
        # Were boxes or images resized in bfloat16, most coordinates would have 8 bits.
        assert len(output["boxes"]) > 2 and not torch.equal(output["boxes"], output["boxes"].bfloat16().float())
        if kind == "mask_rcnn":
            assert output["masks"].shape == (len(output["boxes"]), 1, *image.shape[1:])


@pytest.mark.parametrize("kind", KINDS)
def test_a_detector_is_restored_from_its_config_and_state(tiny_detector, detection_batch, kind):
    model = tiny_detector(kind, backbone="rexnet_lite_020")
    images, targets = detection_batch(2)
    model(images, targets)
    config = DetectorConfig.from_dict(json.loads(json.dumps(model.config.to_dict())))
    assert config == model.config and model.kind == kind
    again = build_detector(config)
    again.load_state_dict(model.state_dict())
    if kind != "ssdlite":
        again.roi_heads.detections_per_img = model.roi_heads.detections_per_img
    for one, other in zip(model.eval()(images), again.eval()(images), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert len(one["boxes"]) and set(one["labels"].tolist()) <= {1, 2, 3}
    height, width = images[-1].shape[1:]
    x0, y0, x1, y1 = one["boxes"].T
    assert (x0 >= 0).all() and (x0 <= x1).all() and (x1 <= width).all() and (y0 <= y1).all() and (y1 <= height).all()


@pytest.mark.parametrize("kind", KINDS)
def test_normalisation_happens_once(tiny_detector, kind):
    model = tiny_detector(kind)
    seen = []
    model.backbone.body.network.features[0].register_forward_hook(
        lambda _module, inputs, _output: seen.append(inputs[0])
    )
    mean = torch.tensor([0.485, 0.456, 0.406])
    deviation = torch.tensor([0.229, 0.224, 0.225])
    for level, expected in ((mean, 0.0), (mean + deviation, 1.0)):
        model.eval()([level[:, None, None].expand(3, 96, 96)])
        # A pyramid pads to multiples of 32 with zeros.
        image = seen[-1][..., :64, :64]
        torch.testing.assert_close(image, torch.full_like(image, expected), rtol=0, atol=2e-6)


@pytest.mark.seconds
@pytest.mark.parametrize("kind", ["faster_rcnn", "ssdlite"])
def test_the_backbone_compiles_without_a_break(tiny_detector, detection_batch, kind):
    model = tiny_detector(kind).eval()
    image = torch.randn(1, 3, 96, 96)
    expected = model.backbone(image)
    found = torch.compile(model.backbone, backend="eager", fullgraph=True)(image)
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ("kind", "network"),
    [
        ("faster_rcnn", "rexnet_plain"),
        ("faster_rcnn", "rexnetr_020"),
        ("mask_rcnn", "rexnet_020"),
        ("ssdlite", "rexnet_lite_020"),
        ("ssdlite", "rexnet_plain"),
    ],
)
def test_backbone_weights_are_loaded_bit_for_bit_and_counted(tiny_detector, tmp_path, caplog, kind, network):
    pretrained = rexnet.create_model(network, num_classes=7)
    with torch.no_grad():
        for tensor in pretrained.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 9)
    torch.save(pretrained.state_dict(), tmp_path / "weights.pth")
    caplog.set_level(logging.INFO)
    model = tiny_detector(kind, backbone=network, weights=tmp_path / "weights.pth")
    body = model.backbone.body.network.state_dict()
    wanted = {key: value for key, value in pretrained.state_dict().items() if key.startswith("features.")}
    penultimate = {key for key in wanted if int(key.split(".")[1]) > 2 + len(pretrained.config.blocks)}
    assert body.keys() == wanted.keys() - (set() if kind == "ssdlite" else penultimate)
    assert all(torch.equal(value, wanted[key]) for key, value in body.items())
    assert f"{len(body)} of {len(body)} backbone tensors loaded from" in caplog.text
    assert not [key for key in model.state_dict() if ".output." in key]


def test_weights_of_another_width_are_refused_by_name(tmp_path, tiny_detector):
    torch.save(rexnet.create_model("rexnet_020").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"is width 0\.20 \(rexnet_020\), but the model is width 0\.10"):
        tiny_detector("ssdlite", weights=tmp_path / "weights.pth")
    torch.save(tiny_detector("ssdlite").state_dict(), tmp_path / "detector.pth")
    with pytest.raises(WeightsError, match="contains no ReXNet"):
        tiny_detector("ssdlite", weights=tmp_path / "detector.pth")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "yolo"}, "kind is 'yolo'; allowed: faster_rcnn, mask_rcnn, ssdlite"),
        ({"num_classes": 0}, "num_classes is 0; allowed: whole numbers from 1"),
        ({"num_classes": 2.0}, "num_classes is 2.0; allowed: whole numbers from 1"),
        ({"backbone": "resnet50"}, "'resnet50'"),
        ({"backbone": "timm/rexnet_9"}, "timm has no network 'rexnet_9'"),
        ({"backbone": "timm/resnet18", "kind": "ssdlite"}, "allowed for ssdlite: ReXNets and timm's EfficientNets"),
        ({"backbone": model_config("rexnet_010", stem_stride=1)}, "has feature maps of strides 1, 2, 4, 8, 16"),
        ({"backbone": model_config("rexnet_010", output_stride=16)}, "has feature maps of strides 2, 4, 8, 16;"),
        ({"backbone": model_config("rexnet_010", in_channels=1)}, "takes 1 channels; detectors need 3"),
        ({"min_size_px": 16}, "16 and 1333; allowed: ascending integers from 32"),
        ({"min_size_px": 900, "max_size_px": 800}, "900 and 800; allowed: ascending integers from 32"),
        ({"kind": "ssdlite", "max_size_px": 640}, "320 and 640; ssdlite needs equal ones"),
    ],
)
def test_impossible_options_are_refused_in_one_sentence(options, sentence):
    with pytest.raises(ValueError) as refused:
        create_detector(**{"kind": "faster_rcnn", "backbone": "rexnet_010", "num_classes": 3, **options})
    assert sentence in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(("kind", "backbone"), [("faster_rcnn", "timm/resnet18"), ("ssdlite", "timm/efficientnet_b0")])
def test_networks_of_timm_are_backbones_too(tiny_detector, detection_batch, tmp_path, caplog, kind, backbone):
    import timm

    network = timm.create_model(backbone.removeprefix("timm/"))
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    caplog.set_level(logging.INFO)
    model = tiny_detector(kind, backbone=backbone, weights=tmp_path / "weights.pth")
    body, whole = model.backbone.body.network.state_dict(), network.state_dict()
    assert len(whole) - len(body) == 2 and all(torch.equal(value, whole[key]) for key, value in body.items())
    assert f"{len(body)} of {len(body)} backbone tensors loaded" in caplog.text
    images, targets = detection_batch(1)
    again = build_detector(DetectorConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))))
    again.load_state_dict(copy.deepcopy(model).state_dict())
    assert finite(again(images, targets))
    with pytest.raises(WeightsError, match="has no conv"):
        torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
        tiny_detector(kind, backbone=backbone, weights=tmp_path / "other.pth")


def test_no_layer_is_frozen_by_default(tiny_detector):
    model = tiny_detector("mask_rcnn")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.seconds
def test_the_package_itself_does_not_import_torchvision():
    code = "import sys, rexnet; rexnet.create_model('rexnet_010'); sys.exit('torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shift", [-1, 100])
def test_labels_that_are_not_classes_are_refused(tiny_detector, detection_batch, kind, shift):
    model = tiny_detector(kind)
    images, targets = detection_batch(1, boxes=2)
    targets[0]["labels"] = torch.tensor([1, 1]) + shift
    for arguments, options in (((images, targets), {}), ((images,), {"targets": targets})):
        with pytest.raises(ValueError, match=rf"labels of the targets are {1 + shift} to .* 0 is the background"):
            model(*arguments, **options)
    assert model.eval()(images)
