"""ReXNet (Rank eXpansion Network, arXiv 2007.00992): exact models, training, use on real images."""

from typing import TYPE_CHECKING, Any

from rexnet._version import __version__
from rexnet.models.rexnet import RexNet
from rexnet.models.variants import create_model, list_models
from rexnet.models.weights import load_weights

if TYPE_CHECKING:
    from rexnet.deploy.runtime import Predictor
    from rexnet.timm_models import register_with_timm
    from rexnet.training.checkpoint import load


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

# Found on first use, so that `import rexnet` loads torch and nothing heavier.
_LAZY = {
    "Predictor": "rexnet.deploy.runtime",
    "load": "rexnet.training.checkpoint",
    "register_with_timm": "rexnet.timm_models",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'rexnet' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
