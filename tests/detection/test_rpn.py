from copy import deepcopy

import torch


def proposals_of(stage, logits):
    """Boxes that stay of 40 that do not overlap, all of one level."""
    left = 10.0 * torch.arange(40)
    boxes = torch.stack([left, torch.zeros(40), left + 8, torch.full((40,), 8.0)], dim=1)
    ((kept,), _) = stage.filter_proposals(boxes[None], logits, [(10, 400)], [20, 20])
    return (kept[:, 0] / 10).long().tolist()


def test_regions_whose_sigmoid_is_one_are_ranked_all_the_same(tiny_detector):
    stage = tiny_detector("faster_rcnn", proposals=8).eval().rpn
    logits = torch.linspace(20.0, 40.0, 40)
    assert (logits.sigmoid() == 1).all()
    assert proposals_of(stage, logits) == list(range(39, 31, -1))


def test_a_copy_ranks_by_its_own_settings(tiny_detector):
    detector = tiny_detector("faster_rcnn", proposals=8).eval()
    copy = deepcopy(detector)
    detector.rpn._post_nms_top_n["testing"] = 3
    assert [len(proposals_of(one.rpn, torch.linspace(-3.0, 3.0, 40))) for one in (detector, copy)] == [3, 8]
