"""The engine compiled with the compiler's sanitizers, through a driver in C++ that makes up networks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rexnet.engines import native
from rexnet.engines.native.library import why_missing

SOURCES = Path(native.__file__).parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizer", "networks", "forks"),
    # A process with ThreadSanitizer may not fork while it has threads.
    [("address,undefined", 12, 1), ("thread", 6, 0)],
    ids=["memory", "threads"],
)
def test_sanitizers_find_nothing(tmp_path, sanitizer, networks, forks):
    compiler = shutil.which("c++")
    if compiler is None or why_missing():
        pytest.skip(why_missing() or "there is no C++ compiler")
    driver = tmp_path / "driver"
    # The kernels have no threads of their own; -O1 compiles them in a fraction of the time.
    command = [compiler, "-std=c++17", "-O1", "-g1", "-pthread", f"-fsanitize={sanitizer}", f"-I{SOURCES}"]
    files = [Path(__file__).with_name("driver.cpp"), *SOURCES.glob("*.cpp")]
    objects = [tmp_path / f"{file.stem}.o" for file in files]
    compilers = [
        subprocess.Popen([*command, "-c", str(file), "-o", str(made)], stderr=subprocess.PIPE, text=True)
        for file, made in zip(files, objects, strict=True)
    ]
    for each in compilers:
        _, said = each.communicate(timeout=600)
        assert each.returncode == 0, said
    subprocess.run([*command, *map(str, objects), "-o", str(driver)], check=True, timeout=600)
    environment = {**os.environ, "UBSAN_OPTIONS": "halt_on_error=1", "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(
        [str(driver), str(networks), str(forks)], capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0 and done.stdout.startswith("ok "), done.stdout + done.stderr[-4000:]
