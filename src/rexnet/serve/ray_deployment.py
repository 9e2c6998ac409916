"""The server as an application of Ray Serve, on one machine or a cluster."""

from importlib import import_module
from typing import Any

from fastapi import FastAPI

from rexnet.serve.app import create_app
from rexnet.serve.config import ServeConfig


def deployment(config: ServeConfig, *, api_key: str | None = None, replicas: int = 1) -> Any:
    """An application of Ray Serve: each replica opens the model files where it runs. Ray listens, so host, port,
    workers and log of `config`, and how long clients may take for their headers, are not used. ValueError with the pip
    line where Ray is missing."""
    try:
        serve = import_module("ray.serve")
    except ImportError as error:
        raise ValueError("a deployment of Ray Serve needs Ray: pip install 'ray[serve]'") from error

    # A builder, not an application: locks and threads of an application do not travel to the replicas.
    def build() -> FastAPI:
        return create_app(config, api_key=api_key)

    class Pictures:
        pass

    options = {"num_cpus": config.threads_of_a_worker}
    served = serve.deployment(num_replicas=replicas, ray_actor_options=options)(serve.ingress(build)(Pictures))
    return served.bind()
