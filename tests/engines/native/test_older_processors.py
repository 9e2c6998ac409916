"""The compiled engine on models of older CPUs in qemu-user, which end a program at the first instruction they lack."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rexnet.engines import native
from rexnet.engines.native.library import why_missing

SOURCES = Path(native.__file__).parent
QEMU = shutil.which("qemu-x86_64") or "qemu-x86_64"


def run(*command):
    """Return the exit code and standard output; qemu warns of everything in the model that it does not emulate."""
    command = [str(part) for part in command]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    return done.returncode, done.stdout


@pytest.fixture
def qemu():
    if reason := why_missing():
        pytest.skip(reason)
    if shutil.which(QEMU) is None:
        pytest.skip("there is no qemu-x86_64 (Debian: apt install qemu-user)")


@pytest.fixture
def driver(qemu, tmp_path):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    library = next(SOURCES.glob("kernels.*.so"))
    sources = (f"-I{SOURCES}", Path(__file__).with_name("driver.cpp"), library, f"-Wl,-rpath,{SOURCES}")
    subprocess.run([compiler, "-std=c++17", "-pthread", *sources, "-o", tmp_path / "driver"], check=True, timeout=600)
    return tmp_path / "driver"


@pytest.mark.slow
def test_haswell_computes_in_avx2_with_the_bits_of_this_cpu(driver):
    code, here = run(driver, 3, 0)
    assert code == 0 and here.startswith("ok ")
    assert run(QEMU, "-cpu", "Haswell", driver, 3, 0) == (0, f"ok avx2 none {here.split()[-1]}\n")


@pytest.mark.slow
def test_nehalem_is_refused(driver):
    assert run(QEMU, "-cpu", "Nehalem", driver, 3, 0) == (0, "ok none none 00000000\n")


@pytest.mark.parametrize(
    ("cpu", "reasons"),
    [
        ("Nehalem", ["this CPU has no AVX2 or AVX-512", "this CPU has no AVX-512 with bf16"]),
        ("Haswell", ["None", "this CPU has no AVX-512 with bf16"]),
    ],
)
def test_the_reason_is_one_clause(qemu, cpu, reasons):
    script = "from rexnet.engines.native.library import why_missing as why; print(why(), why('bf16'), sep='\\n')"
    code, printed = run(QEMU, "-cpu", cpu, os.path.realpath(sys.executable), "-c", script)
    assert (code, printed.splitlines()) == (0, reasons)
