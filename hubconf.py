"""Entry points of torch.hub: torch.hub.load("<this repository>", "rexnet_100", weights=..., num_classes=...).

One for each name of `rexnet.list_models()`, with the arguments of `rexnet.create_model`, beside "rexnet", "rexnetr"
and "rexnet_lite" for any other width=. torch.hub loads only what it can list: rexnet_085 is "rexnet" with width=0.85.
"""

import pathlib
import sys

# torch.hub puts this folder on the path, not the one in it that holds the package.
_SOURCE = str(pathlib.Path(__file__).parent / "src")
sys.path.insert(0, _SOURCE)
try:
    import rexnet as _rexnet
    from rexnet.models.variants import FAMILIES as _FAMILIES
finally:
    sys.path.remove(_SOURCE)

dependencies = ["torch"]


def _entry_point(name):
    def create(pretrained=False, **options):
        return _rexnet.create_model(name, pretrained=pretrained, **options)

    create.__name__ = name
    create.__doc__ = f"""{name}: rexnet.create_model({name!r}, ...), in training mode.

    pretrained: the first published weights of this network; another num_classes gives it a new classifier
    weights: None, a file, or the name of published weights (see docs/weights.md)
    num_classes, in_channels, drop_rate, drop_path_rate, output_stride, stem_stride: as in rexnet.create_model
    """
    return create


globals().update({_name: _entry_point(_name) for _name in (*_FAMILIES, *_rexnet.list_models())})
