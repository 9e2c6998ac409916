"""Send ten thousand random requests to `rexnet serve MODEL`: none may get a status of 500 or more, and the server must
stay alive.

Half are generated from the server's OpenAPI document by schemathesis, half are bytes on a socket that begin like HTTP.
A row is appended to results/serve_fuzz_cpu.jsonl; the exit code is 1 after a failure.
"""

import random
import re
import socket
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from typing import Annotated

import httpx2 as httpx
import schemathesis
import tyro
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

import records

STARTS = (
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: 60\r\n\r\n",
    b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n',
    b'POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n0\r\n\r\n',
    b"Inference-Header-Content-Length: 9\r\n",
    b"Content-Length: 99999999999999\r\n",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Fuzz a server."""

    model: Annotated[str, tyro.conf.Positional]
    requests: int = 10_000
    seed: int = 0


def main(options: Options) -> None:
    records.start()
    command = [sys.executable, "-m", "rexnet", "serve", options.model, "--port", "0", "--body-timeout-s", "1"]
    with subprocess.Popen([*command, "--log", "/dev/null"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        found = next(filter(None, (re.search(r"http://([\d.]+):(\d+)", line) for line in process.stderr)))
        # Its log has to be read, or it would wait at a full pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        try:
            statuses, alive = fuzz(found.group(1), int(found.group(2)), options)
        finally:
            process.terminate()
    print(f"{sum(statuses.values()):,} requests: {dict(sorted(statuses.items()))} (0: closed without an answer)")
    print("the server is alive" if alive else "the server is dead")
    row = {
        "requests": sum(statuses.values()),
        "statuses": {str(status): statuses[status] for status in sorted(statuses)},
    }
    print(f"appended to {records.append('serve_fuzz_cpu', {**row, 'alive': alive, **records.provenance('cpu')})}")
    sys.exit(not alive or any(status >= 500 for status in statuses))


def fuzz(host: str, port: int, options: Options) -> tuple[Counter[int], bool]:
    """Return the number of answers by status, and whether the server is alive."""
    statuses: Counter[int] = Counter()
    from_schema(f"http://{host}:{port}", options.requests // 2, statuses)
    from_bytes(host, port, options.requests - sum(statuses.values()), random.Random(options.seed), statuses)
    return statuses, httpx.get(f"http://{host}:{port}/v2/health/live", timeout=60).status_code == 200


def from_schema(address: str, number: int, statuses: Counter[int]) -> None:
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    quiet = settings(
        max_examples=number // len(operations) + 1,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
        phases=[Phase.generate],
        database=None,
    )
    with httpx.Client(timeout=60) as client:
        for operation in operations:

            @quiet
            @given(operation.as_strategy())
            def ask(case: schemathesis.Case) -> None:
                try:
                    sent = case.as_transport_kwargs(base_url=address)
                    sent.pop("cookies", None)
                    request = client.build_request(**sent)
                    request.read()  # forms are written only now
                except (UnicodeError, ValueError, TypeError, AttributeError):  # no client can send it
                    return
                statuses[client.send(request).status_code] += 1

            ask()


def from_bytes(host: str, port: int, number: int, chance: random.Random, statuses: Counter[int]) -> None:
    for _ in range(number):
        pieces = [chance.choice(STARTS) if chance.random() < 0.7 else chance.randbytes(30) for _ in range(3)]
        content = bytearray(b"".join(pieces))
        for _ in range(chance.randrange(4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        statuses[status_of(host, port, bytes(content))] += 1


def status_of(host: str, port: int, content: bytes) -> int:
    with socket.create_connection((host, port), timeout=60) as client:
        client.settimeout(0.2)
        try:
            client.sendall(content)
            answer = client.recv(65536)
        except (TimeoutError, ConnectionError):
            return 0
    found = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return int(found.group(1)) if found else 0


if __name__ == "__main__":
    main(tyro.cli(Options))
