import os
import subprocess
import sys
from functools import partial

import pytest

from rexnet.engines.own_process import OwnProcess
from rexnet.errors import BadImageError, MissingPackageError


def fail(kind, *arguments):
    raise kind(*arguments)


def not_portable():
    return lambda: None


@pytest.mark.seconds
def test_the_process_of_a_function_survives_errors():
    with OwnProcess() as process:
        process.prepare(partial, pow, 2)
        assert [process(power) for power in range(4)] == [1, 2, 4, 8]
        process.prepare(partial, fail)
        with pytest.raises(BadImageError, match="broken"):
            process(BadImageError, "a.png", "broken")
        with pytest.raises(ValueError, match=r"needs the package onnx: pip install .*deploy"):
            process(MissingPackageError, "this", "onnx", "'rexnet[deploy]'")
        with pytest.raises(ValueError, match="invalid literal"):
            process.prepare(int, "x")
        with pytest.raises((AttributeError, TypeError)):
            process.prepare(partial, lambda: 1)
        process.prepare(partial, print, "not a reply")
        assert process() is None
        process.prepare(partial, os.getpid)
        assert process() not in (os.getpid(), None)


@pytest.mark.seconds
def test_an_unpicklable_result_is_an_error():
    with OwnProcess() as process:
        process.prepare(partial, not_portable)
        with pytest.raises((AttributeError, TypeError, ValueError)):
            process()
        process.prepare(partial, int, "3")
        assert process() == 3


@pytest.mark.seconds
def test_the_main_script_is_not_run_again_and_the_process_ends_with_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os\nfrom functools import partial\nfrom rexnet.engines.own_process import OwnProcess\n"
        "print('once', flush=True)\nprocess = OwnProcess()\nprocess.prepare(partial, int)\n"
        "print(process(), flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    # The errors' pipe is closed, and this returns, once the other process has ended too.
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-9, "once\n0\n", "")
