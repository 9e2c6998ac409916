from dataclasses import replace

import pytest
import timm
import torch
from timm.models.rexnet import RexNet as TimmRexNet

import rexnet
from rexnet.errors import WeightsError
from rexnet.models.layouts import describe_layout, find_variant, layout_of, layout_of_config
from rexnet.models.timm_keys import timm_to_native
from rexnet.models.variants import model_config


def on_meta(make):
    with torch.device("meta"):
        return make().state_dict()


@pytest.mark.parametrize("name", [*rexnet.list_models(), "rexnet_117", "rexnet_050", "rexnetr_125", "rexnet_lite_117"])
@pytest.mark.parametrize("options", [{}, {"num_classes": 0, "in_channels": 1}, {"stem_stride": 1, "output_stride": 16}])
def test_a_state_dict_is_recognised_in_any_order(name, options):
    config = model_config(name, **options)
    state = on_meta(lambda: rexnet.RexNet(config))
    layout = layout_of({key: state[key] for key in sorted(state)})
    assert layout == layout_of(state) == layout_of_config(config)
    found = find_variant(layout)
    assert found is not None and found.name == name
    assert layout.classifier_keys == (tuple(list(state)[-2:]) if config.num_classes else ())
    assert name in describe_layout(layout)


@pytest.mark.parametrize("name", timm.list_models("rexnet*"))
def test_timms_networks_are_the_named_ones(name):
    found = find_variant(layout_of(timm_to_native(on_meta(lambda: timm.create_model(name)))))
    assert found is not None and found.name == name


def test_a_network_without_a_name_is_described():
    layout = layout_of(timm_to_native(on_meta(lambda: TimmRexNet(depth_mult=1.5))))
    assert find_variant(layout) is None
    text = describe_layout(layout)
    assert text.startswith("a network without a name (stem of 32 channels, 26 blocks of 16 to 189, 21 with squeeze")


def test_two_layouts_are_one_network_up_to_image_channels_and_classes():
    layout = layout_of_config(model_config("rexnet_100"))
    assert replace(layout, num_classes=3, in_channels=1).network == layout.network
    assert replace(layout, stem_channels=33).network != layout.network


@pytest.mark.parametrize("name", ["mobilenetv2_050", "resnet18", "vit_tiny_patch16_224", "rexnet_100"])
def test_other_networks_are_refused(name):
    with pytest.raises(WeightsError, match="its first tensors are"):
        layout_of(on_meta(lambda: timm.create_model(name)))
    with pytest.raises(WeightsError):
        layout_of({"features.0.weight": torch.zeros(3)})


def test_a_network_without_blocks_has_no_name():
    assert "0 blocks" in describe_layout(layout_of({"features.0.weight": torch.zeros(32, 3, 3, 3)}))
