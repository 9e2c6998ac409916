import os
import platform
import shutil
import subprocess
import sys

import pytest

from rexnet.training.classify import train

PROGRAM = """
import resource, sys, torch
from rexnet.training.session import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def work():
    for size in range(1, 31):
        blocks = [torch.ones(size * 260_000) for _ in range(2)]  # of 1 to 31 MB, as the layers of a network
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.seconds
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a knob of glibc")
def test_freed_memory_is_used_again_without_asking_the_system():
    faults = {
        way: int(subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True).stdout)
        for way in ("kept", "given back")
    }
    if not faults["given back"]:
        pytest.skip("this machine does not count page faults")
    assert faults["kept"] < 0.2 * faults["given back"], faults


def test_a_full_disk_is_noticed_before_the_first_epoch(tiny_config, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(2**40, 2**40 - 9_000, 9_000))
    with pytest.raises(OSError, match="has 0 MB free, but checkpoints need more than"):
        train(tiny_config)
    assert not os.path.exists(tiny_config.run.output), "a failed start leaves no run folder"
