import copy

import pytest
import torch


def losses_and_gradients(model, images, targets):
    torch.manual_seed(3)  # for the anchors and proposals that are drawn
    model.zero_grad()
    losses = model(images, copy.deepcopy(targets))
    sum(losses.values()).backward()
    return losses, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture
def model(tiny_detector):
    model = tiny_detector("mask_rcnn").eval()
    for module in (model, *(model.get_submodule(name) for name in ("rpn", "roi_heads", "transform"))):
        module.training = True  # all but the batch norms, which would make one image depend on the others
    return model


def test_objects_without_a_mask_teach_their_box_and_no_mask(model, detection_batch):
    images, whole = detection_batch(1)
    partly = copy.deepcopy(whole)
    partly[0]["masks"][1] = 0
    found, gradients = losses_and_gradients(model, images, partly)
    expected, all_gradients = losses_and_gradients(model, images, whole)
    for name in ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"):
        assert torch.equal(found[name], expected[name]), name
    last = "roi_heads.mask_predictor.mask_fcn_logits.weight"
    # Classes of the two objects: 1 has a mask, 3 has none now.
    assert gradients[last][1].any() and not gradients[last][3].any() and all_gradients[last][3].any()


def test_without_any_mask_there_is_no_mask_loss(model, detection_batch):
    images, targets = detection_batch(2)
    for target in targets:
        target["masks"].zero_()
    found, gradients = losses_and_gradients(model, images, targets)
    assert found["loss_mask"] == 0 and found["loss_box_reg"] > 0
    assert not any(gradient.any() for name, gradient in gradients.items() if ".mask_" in name)


def test_with_every_mask_the_losses_are_torchvisions(model, detection_batch):
    images, targets = detection_batch(2)
    found, gradients = losses_and_gradients(model, images, targets)
    vars(model.roi_heads)["forward"] = vars(model.roi_heads)["forward"].args[0]
    expected, their_gradients = losses_and_gradients(model, images, targets)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert all(torch.equal(gradients[name], their_gradients[name]) for name in their_gradients)
