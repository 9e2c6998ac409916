"""The command in processes of its own, and clients that do not speak HTTP, or not to the end, over real sockets."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx2 as httpx
import pytest

from rexnet import cli
from rexnet.serve import run
from tests.serve.servers import IMAGES, by_hand, config, even, form, listening


@pytest.fixture
def start(tmp_path):
    """start("model.pt", "--workers", "2"): (process, address) of a server."""
    processes = []

    def make(*arguments, environment=(), cwd=None):
        command = [sys.executable, "-m", "rexnet", "serve", *map(str, arguments), "--backend", "torch", "--port", "0"]
        settings = {**os.environ, "HOME": str(tmp_path), "PYTHONWARNINGS": "error", **dict(environment)}
        with open(tmp_path / "server.log", "w") as log:
            process = subprocess.Popen(command, stderr=log, env=settings, cwd=cwd, start_new_session=True)
        processes.append(process)
        until = time.monotonic() + 400
        while not (found := re.search(r"http://\S+:\d+", (tmp_path / "server.log").read_text())):
            assert process.poll() is None and time.monotonic() < until, (tmp_path / "server.log").read_text()
            time.sleep(0.05)
        return process, found.group().rstrip(",")

    yield make
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "code"), [(1, 130), (2, 0)])
def test_ctrl_c_does_not_wait_for_the_end_of_python(start, checkpoint_file, tmp_path, workers, code):
    """Taking down PyTorch's modules takes seconds, when all connections are closed."""
    (tmp_path / "sitecustomize.py").write_text("import atexit, os; atexit.register(open, f'{os.getpid()}.end', 'w')")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    process, address = start(checkpoint_file, "--workers", workers, environment={"PYTHONPATH": path}, cwd=tmp_path)
    assert httpx.get(f"{address}/models", timeout=400).status_code == 200
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == code
    assert not (tmp_path / f"{process.pid}.end").exists()


@pytest.mark.slow
def test_ctrl_c_while_workers_start(start, checkpoint_file, tmp_path):
    process, _ = start(checkpoint_file, "--workers", "2")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    assert "Traceback" not in (tmp_path / "server.log").read_text()


@pytest.mark.slow
def test_a_stopped_server_answers_what_it_has_accepted(start, checkpoint_file, tmp_path):
    process, address = start(checkpoint_file, "--log", tmp_path / "access.log", "--threads", "1")
    answers = []

    def ask():
        try:
            answers.append(httpx.post(f"{address}/predict", files=form(*IMAGES * 2), timeout=60).status_code)
        except httpx.ConnectError:  # it came too late
            answers.append(None)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if re.search(r"rexnet_pending_images\{.*\} [1-9]", httpx.get(f"{address}/metrics", timeout=60).text):
            break
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    process.wait(60)
    lines = [json.loads(line) for line in (tmp_path / "access.log").read_text().splitlines()]
    assert process.returncode == -signal.SIGTERM
    answered = [line for line in lines if line["path"] == "/predict"]
    assert answers.count(200) == len(answered) >= 1 and all(line["status"] == 200 for line in answered)
    assert set(answers) <= {200, None}


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop",
    [lambda pid: os.kill(pid, signal.SIGTERM), lambda pid: os.killpg(pid, signal.SIGINT)],
    ids=["SIGTERM", "Ctrl-C"],
)
def test_stopped_workers_reset_no_connection(start, checkpoint_file, stop):
    process, address = start(checkpoint_file, "--workers", "2", "--threads", "1")
    assert httpx.get(f"{address}/models", timeout=400).status_code == 200
    failures, answered, refused = [], [], threading.Event()

    def ask():
        while not refused.is_set():
            try:
                answered.append(httpx.post(f"{address}/predict", files=form(IMAGES[0]), timeout=60).status_code)
            except httpx.ConnectError:
                refused.set()
            except httpx.TransportError as error:
                failures.append(error)
                return

    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as late:  # connected, and asks only afterwards
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        while len(answered) < 20:
            time.sleep(0.01)
        stop(process.pid)
        assert refused.wait(60)
        late.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        said = b"".join(iter(lambda: late.recv(65536), b""))
        for thread in threads:
            thread.join()
    assert process.wait(60) in (0, -signal.SIGTERM, -signal.SIGINT, 130)
    assert not failures and set(answered) == {200}
    assert said.startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_several_workers_share_port_and_metrics(start, checkpoint_file, tmp_path):
    process, address = start(
        checkpoint_file, "--workers", "2", "--threads", "1", environment={"REXNET_API_KEY": "key-of-the-test"}.items()
    )
    headers = {"x-api-key": "key-of-the-test"}
    # Whoever asks before the workers are ready waits: they import PyTorch first.
    answers = [httpx.get(f"{address}/models", headers=headers, timeout=400).status_code for _ in range(20)]
    assert answers == [200] * 20
    assert httpx.get(f"{address}/models").status_code == 401
    counted = httpx.get(f"{address}/metrics", headers=headers).text
    found = re.search(r'rexnet_requests_total\{route="/models",status="200"\} (\d+)', counted)
    assert found and int(found.group(1)) == 20
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) in (0, -signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing.pt"], 1, "there is no file"),
        ([], 2, ""),
        (["{model}", "--port", "70000"], 2, "allowed: 0 to 65535"),
        (["{model}", "--host", "no such host"], 2, "not an address of this machine"),
        (["{model}", "--log", "/"], 2, "--log is '/', a folder"),
        (["{model}", "{model}"], 2, "two models have the name"),
        (["{broken}"], 1, "broken.pt"),
    ],
)
def test_unservable_models_are_refused_in_one_sentence(checkpoint_file, tmp_path, capsys, arguments, code, said):
    (tmp_path / "broken.pt").write_bytes(b"none")
    words = [word.format(model=checkpoint_file, broken=tmp_path / "broken.pt") for word in arguments]
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", *words, *([] if "--port" in words else ["--port", "0"]), "--backend", "torch"])
    assert caught.value.code == code and said in capsys.readouterr().err


def test_a_worker_whose_model_is_missing_ends_with_one_sentence(tmp_path, caplog):
    with pytest.raises(SystemExit) as ended:
        run._worker(config(tmp_path / "gone.pt"), None)
    assert ended.value.code == 1 and "a worker cannot start: there is no file" in caplog.text


def test_a_port_in_use_is_reported_in_one_sentence(checkpoint_file, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as caught:
        cli.main(["serve", str(checkpoint_file), "--port", str(taken.getsockname()[1])])
    assert caught.value.code == 1 and "choose another --port" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "httptools", "python_multipart", "prometheus_client"])
def test_a_missing_package_is_named_with_its_pip_command(checkpoint_file, package):
    code = f"import sys; sys.modules[{package!r}] = None; from rexnet import cli; cli.main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "serve", str(checkpoint_file)], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 1 and done.stderr.endswith("pip install 'rexnet[serve]'\n"), done.stderr


TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def address():
    settings = config(body_timeout_s=TIMEOUT_S, max_body_mib=1)
    with listening(settings, registry=by_hand(even, settings)) as address:
        yield address


def asked(address: str, *sends: bytes, pause_s: float = 0.0) -> bytes:
    """All that the server says until it closes the connection."""
    host, port = address.split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=60) as client:
        try:
            for one in sends:
                client.sendall(one)
                time.sleep(pause_s)
            while received := client.recv(65536):
                said += received
        except ConnectionError:  # closed while something was still being sent
            pass
    return said


@pytest.mark.parametrize(
    "noise", [b"\0" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nno colon\r\n\r\n"]
)
def test_malformed_http_is_refused_in_json(address, noise):
    said = asked(address, noise)
    assert said.startswith(b"HTTP/1.1 400") and b'"error"' in said


def test_a_silent_client_is_disconnected(address):
    assert asked(address) == b""


def test_slow_headers_are_cut_off(address):
    assert asked(address, b"GET / HTTP/1.1\r\n", *[b"a"] * 20, pause_s=0.05) == b""


def test_a_slow_body_is_cut_off_with_one_sentence(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    said = asked(address, head, *[b"a"] * 5, pause_s=0.01)
    assert said.startswith(b"HTTP/1.1 408") and b"did not arrive" in said


def test_endless_headers_are_cut_off(address):
    assert asked(address, b"GET / HTTP/1.1\r\n", *[b"a: " + b"b" * 65536 + b"\r\n"] * 20) == b""
    assert asked(address, b"GET / HTTP/1.1\r\na: ", *[b"b" * 65536] * 20) == b""


def test_endless_trailers_are_cut_off(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    said = asked(address, head, *[b"a: " + b"b" * 65536 + b"\r\n"] * 20)
    assert said == b"" or said.startswith(b"HTTP/1.1 4")


def test_chunks_beyond_the_cap_are_refused(address):
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = asked(address, head, *[b"10000\r\n" + b"x" * 65536 + b"\r\n"] * 20, b"0\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 413")


def test_two_content_lengths_are_refused(address):
    said = asked(address, b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")
    assert said.startswith(b"HTTP/1.1 400")
    both = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    assert asked(address, both).startswith(b"HTTP/1.1 400")


def test_other_clients_are_answered_meanwhile(address):
    host, port = address.split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(20)]
    for client in slow:
        client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\nx")
    said = asked(address, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200")
    for client in slow:
        client.close()


def test_a_client_that_disconnects_does_not_affect_others(address):
    host, port = address.split(":")
    for _ in range(20):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(b"POST /predict HTTP/1.1\r\nContent-Length: 10\r\n\r\nx")
    said = asked(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert b'status="gone"' in said


def test_too_many_clients_are_turned_away_in_json(address, monkeypatch):
    monkeypatch.setattr(run, "_MAX_CONNECTIONS", 0)
    said = asked(address, b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in said.lower() and b'"error"' in said
