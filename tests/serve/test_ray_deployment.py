import sys

import httpx2 as httpx
import pytest

from rexnet.serve.ray_deployment import deployment
from tests.serve.servers import PICTURES, config, form


def test_without_ray_there_is_a_pip_line(monkeypatch, checkpoint_file):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'ray\[serve\]'"):
        deployment(config(checkpoint_file))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_replicas_answer(checkpoint_file):
    ray = pytest.importorskip("ray", reason="needs Ray, which no extra installs")
    serve = pytest.importorskip("ray.serve")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        serve.start(http_options={"port": 18_465})
        serve.run(deployment(config(checkpoint_file, threads=1), replicas=2))
        for _ in range(8):
            answer = httpx.post("http://127.0.0.1:18465/predict", files=form(PICTURES[0]), timeout=60)
            assert answer.status_code == 200 and len(answer.json()["results"][0]["predictions"]) == 3
        assert httpx.get("http://127.0.0.1:18465/v2/health/ready", timeout=60).status_code == 200
    finally:
        serve.shutdown()
        ray.shutdown()
