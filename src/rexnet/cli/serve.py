"""The command that answers over HTTP."""

import os
from collections.abc import Sequence

from rexnet.cli.options import read_options


def serve(arguments: Sequence[str]) -> None:
    """Classify images and detect objects over HTTP, for browsers and programs"""
    from rexnet.serve.config import ServeConfig

    config = read_options("serve", ServeConfig, arguments)
    # Not an option: others on this machine can read a command line.
    api_key = config.read_api_key(os.environ.get("REXNET_API_KEY"))
    try:
        from rexnet.serve.run import serve as listen
    except ImportError as error:
        if (error.name or "").startswith("rexnet"):
            raise
        raise ValueError(f"rexnet serve needs the package {error.name}: pip install 'rexnet[serve]'") from error
    listen(config, api_key=api_key)
