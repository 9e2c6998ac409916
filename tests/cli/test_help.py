"""`--help` of every command: what it shows, and what it does not wait for."""

import json
import subprocess
import sys

import pytest

from rexnet import cli

HEAVY = {"torch", "torchvision", "timm"}
SCRIPT = """
import contextlib, io, json, sys
import pytest

from rexnet import cli
loaded = {}
given = ["train digits", "train .", "detect train shapes", "search run digits", "data", "nonsense"]
for command in [*cli.COMMANDS, *given]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            cli.main([*command.split(), "--help"])
        except SystemExit:
            pass
    loaded[command] = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
print(json.dumps(loaded))
"""


def test_no_help_imports_a_heavy_library(tmp_path):
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert set(cli.COMMANDS) < set(loaded) and not any(loaded.values()), loaded


@pytest.mark.parametrize("command", ["train", "detect train"])
def test_the_help_of_a_training_begins_with_three_examples_and_the_ten_options_that_matter(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    paragraphs = capsys.readouterr().out.split("\n\n")
    first = {title: body.splitlines() for title, _, body in (text.partition("\n") for text in paragraphs)}
    assert [line.startswith("  rexnet ") for line in first["examples:"]] == 3 * [True]
    assert sum(line.startswith("  --") for line in first["options that matter most:"]) == 10
