import os
import threading
import time

import httpx2 as httpx
import numpy as np
import pytest

from rexnet.deploy.predictor import Predictor
from rexnet.serve import model_registry
from tests.serve.servers import IMAGES, config, form, listening


@pytest.fixture
def live(make_checkpoint, tmp_path, monkeypatch):
    """(address, path of its model file)"""
    monkeypatch.setattr(model_registry, "_POLL_S", 0.05)
    path = make_checkpoint(tmp_path / "model.pt")
    with listening(config(path, reload=True, max_batch=2)) as address:
        yield f"http://{address}", path


def said(address):
    answer = httpx.post(f"{address}/predict?top_k=3", files=form(IMAGES[0]), timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def reloads(address):
    lines = httpx.get(f"{address}/metrics", timeout=60).text.splitlines()
    return {
        line.split('outcome="')[1].split('"')[0]: float(line.split()[-1]) for line in lines if "reloads_total{" in line
    }


@pytest.mark.seconds
def test_a_replaced_file_is_loaded_without_a_failed_request(live, make_checkpoint, tmp_path):
    address, path = live
    other = make_checkpoint(tmp_path / "other.pt", seed=1)
    expected = {}
    versions = {}
    for name, file in (("old", path), ("new", other)):
        expected[name] = Predictor(file, backend="torch")(IMAGES[0])[0].best.probability
    assert abs(expected["old"] - expected["new"]) > 1e-3
    versions["old"] = said(address)["version"]
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(said(address))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    os.replace(other, path)
    wait_for(lambda: said(address)["version"] != versions["old"])
    stop.set()
    for thread in threads:
        thread.join()
    versions["new"] = said(address)["version"]
    answers.append(said(address))
    of_version = {versions[name]: probability for name, probability in expected.items()}
    for answer in answers:
        (result,) = answer["results"]
        assert np.isclose(result["predictions"][0]["probability"], of_version[answer["version"]], atol=1e-5)
    assert {answer["version"] for answer in answers} == set(of_version)
    assert reloads(address) == {"taken": 1.0}


@pytest.mark.parametrize("content", [b"", b"no checkpoint", None])
def test_a_broken_file_leaves_the_old_network_answering(live, content, caplog, monkeypatch):
    address, path = live
    polls, look = [], model_registry._current_identity
    monkeypatch.setattr(model_registry, "_current_identity", lambda model: polls.append(model) or look(model))
    before = said(address)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content is None else content)
    wait_for(lambda: reloads(address).get("failed") == 1.0)
    after = said(address)
    assert after["version"] == before["version"]
    assert after["results"][0]["predictions"] == before["results"][0]["predictions"]
    assert "cannot be used" in caplog.text
    path.unlink()
    wait_for(lambda: reloads(address) == {"failed": 1.0, "missing": 1.0})
    polls.clear()
    wait_for(lambda: len(polls) > 3)
    assert said(address)["version"] == before["version"]
    assert reloads(address) == {"failed": 1.0, "missing": 1.0}
    assert caplog.text.count("is missing") == 1
    path.write_bytes(whole)
    wait_for(lambda: reloads(address) == {"failed": 1.0, "missing": 1.0, "taken": 1.0})
    path.unlink()
    wait_for(lambda: reloads(address) == {"failed": 1.0, "missing": 2.0, "taken": 1.0})


@pytest.mark.seconds
def test_a_file_that_is_still_being_copied_is_not_opened(live, make_checkpoint, tmp_path):
    address, path = live
    content = make_checkpoint(tmp_path / "other.pt", seed=1).read_bytes()
    before = said(address)["version"]
    with open(path, "wb") as file:
        for start in range(0, len(content), len(content) // 20):
            file.write(content[start : start + len(content) // 20])
            file.flush()
            time.sleep(0.02)
    wait_for(lambda: said(address)["version"] != before)
    assert reloads(address).get("taken") == 1.0
