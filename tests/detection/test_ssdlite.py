import torch


def test_images_with_objects_alone_have_torchvisions_losses(tiny_detector, detection_batch):
    model = tiny_detector("ssdlite")
    images, targets = detection_batch(2)
    found = model(images, targets)
    vars(model)["compute_loss"] = vars(model)["compute_loss"].args[0]
    expected = model(images, targets)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_image_without_objects_weighs_as_much_as_one_positive_anchor(tiny_detector, detection_batch):
    """Three hard negatives each: of two images alone, divided by two."""
    model = tiny_detector("ssdlite")
    images, targets = detection_batch(2, boxes=0)
    logits = []
    model.head.register_forward_hook(lambda *call: logits.append(call[-1]["cls_logits"].detach()))
    found = model(images, targets)
    background = -logits[0].log_softmax(2)[..., 0]
    expected = background.sort(1, descending=True).values[:, :3].sum() / 2
    torch.testing.assert_close(found["classification"].detach(), expected)
    assert found["bbox_regression"] == 0
