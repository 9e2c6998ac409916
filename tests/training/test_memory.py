import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from rexnet.training.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def work():
    for _ in range(40):
        torch.ones(2_000_000)  # 8 MB, which glibc gives back by default
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a knob of glibc")
def test_freed_memory_is_used_again_without_asking_the_system():
    faults = {
        way: int(subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True).stdout)
        for way in ("kept", "given back")
    }
    assert faults["kept"] < 100, faults
