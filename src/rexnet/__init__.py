"""ReXNet (Rank eXpansion Network, arXiv 2007.00992): exact models, training, and use on real images."""

from typing import TYPE_CHECKING

from rexnet._version import __version__
from rexnet.lazy import lazy_names

if TYPE_CHECKING:
    from rexnet.deploy.predictor import Predictor
    from rexnet.loading import load
    from rexnet.models.factory import create_model
    from rexnet.models.rexnet import RexNet
    from rexnet.models.variants import list_models
    from rexnet.models.weights import load_weights
    from rexnet.timm_models import register_with_timm

__all__ = [
    "Predictor",
    "RexNet",
    "__version__",
    "create_model",
    "list_models",
    "load",
    "load_weights",
    "register_with_timm",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Predictor": "rexnet.deploy.predictor",
        "RexNet": "rexnet.models.rexnet",
        "create_model": "rexnet.models.factory",
        "list_models": "rexnet.models.variants",
        "load": "rexnet.loading",
        "load_weights": "rexnet.models.weights",
        "register_with_timm": "rexnet.timm_models",
    },
)
