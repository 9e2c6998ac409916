"""Networks without a name: the file of a RexNetConfig, as `rexnet search export` and every training write it."""

import json
from pathlib import Path

from rexnet.errors import WeightsError
from rexnet.models.rexnet import RexNetConfig
from rexnet.models.weight_files import read_checkpoint_file

_JSON, _CHECKPOINTS = ".json", (".pt", ".safetensors")


def is_config_file(name: str) -> bool:
    """Whether `name`, where that of a network is asked for, means a file."""
    return name.endswith((_JSON, *_CHECKPOINTS))


def config_text(config: RexNetConfig) -> str:
    """The content of a file that `read_config` reads."""
    return json.dumps(config.to_dict(), indent=2) + "\n"


def read_config(path: str) -> RexNetConfig:
    """What `RexNetConfig.to_dict` gave, from its JSON or from a checkpoint of this package.

    ValueError, one sentence, for a file that cannot be read or holds no network.
    """
    try:
        if path.endswith(_CHECKPOINTS):
            return RexNetConfig.from_dict(read_checkpoint_file(path)["model"])
        return RexNetConfig.from_dict(json.loads(Path(path).read_text(encoding="utf-8")))
    except WeightsError:
        raise
    except OSError as error:
        raise ValueError(f"network {path!r} cannot be read: {error.strerror or error}") from error
    except KeyError as error:
        raise ValueError(f"{path!r} holds no network of rexnet: it has no {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path!r} holds no network of rexnet: {error}") from error
