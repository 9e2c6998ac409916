"""Mistakes that strings and local files alone show: refused before a command imports torch."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, io, json, sys
from rexnet import cli
sys.modules.update(dict.fromkeys(sys.argv[2:]))  # as if not installed
results = []
for arguments in json.loads(sys.argv[1]):
    error = io.StringIO()
    code = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
        try:
            cli.main(arguments.split())
        except SystemExit as stop:
            code = stop.code
    loaded = [name for name in ("torch", "torchvision", "timm") if name in sys.modules]
    results.append([arguments, code, error.getvalue(), loaded])
print(json.dumps(results))
"""
CASES = {
    "trian": (2, "did you mean train?"),
    "train digits --epocs 3": (2, "--epochs"),
    "train digits --epochs x": (2, "--epochs is 'x'"),
    "train digits --freeze all --bn train": (2, "--bn is train"),
    "train digits --image-size 1": (2, "--image-size is 1; allowed: 8 or more"),
    "train nothing": (1, "nothing is not a dataset name"),
    "train run": (1, "run is a run folder, not a dataset"),
    "train digits --model rexnet100": (2, "did you mean rexnet_100"),
    "train digits --model rexnet_999": (2, "width is 9.99"),
    "train digits --weights nothing.pt": (1, "--weights: there is no file 'nothing.pt'"),
    "train digits --output run": (1, "--output 'run' holds a run already"),
    "train digits --resume nothing": (1, "--resume 'nothing' is not a run folder"),
    "train --resume best.pt": (1, "--resume 'best.pt' is not in a run folder"),
    "train --resume run --overwrite": (2, "exclude each other"),
    "train digits --device foo": (2, "--device is 'foo'; allowed: auto, cpu, cuda, cuda:1 or mps"),
    "detect predict best.pt a.jpg --device foo": (2, "--device is 'foo'; allowed: auto, cpu, cuda, cuda:1 or mps"),
    "study rank --device foo": (2, "--device is 'foo'; allowed: auto, cpu, cuda, cuda:1 or mps"),
    "train digits --epochs 5 --max-minutes 3": (2, "--max-minutes is 3 and --epochs 5"),
    "train digits --teacher nothing.pt": (1, "--teacher: there is no file 'nothing.pt'"),
    "train digits --teacher rexnet100": (2, "--teacher: there is no network, file or folder 'rexnet100'"),
    "train digits --teacher rexnet_050": (1, "there are no published weights of rexnet_050"),
    "train digits --teacher timm/resnet18 --teacher-weights no.pt": (1, "--teacher-weights: there is no file 'no.pt'"),
    "train digits --teacher best.pt --unlabelled nothing": (1, "nothing does not exist"),
    "train digits --teacher best.pt --unlabelled empty": (1, "empty contains no images"),
    "detect train images --epochs 5 --max-minutes 3": (2, "--max-minutes is 3 and --epochs 5"),
    "detect train nothing": (1, "nothing is not a dataset name"),
    "detect train images --model xyz": (2, "--model: there is no network, file or folder 'xyz'"),
    "detect train images --weights nothing.pt": (1, "there is no file 'nothing.pt'"),
    "detect validate nothing.pt images": (1, "there is no file 'nothing.pt'"),
    "detect predict best.pt nothing.jpg --out out": (1, "nothing.jpg does not exist"),
    "detect predict best.pt empty --out out": (1, "empty contains no images"),
    "validate best.pt run": (1, "run is a run folder, not a dataset"),
    "validate nothing.pt digits": (1, "there is no file 'nothing.pt'"),
    "predict nothing.pt a.jpg": (1, "there is no file 'nothing.pt'"),
    "predict --model best.pt a.jpg": (2, "best.pt goes first and without an option, as in rexnet predict best.pt ..."),
    "predict rexnet100 a.jpg": (2, "did you mean rexnet_100"),
    "predict best.pt nothing.jpg": (1, "nothing.jpg does not exist"),
    "predict best.pt a.jpg empty": (1, "empty contains no images"),
    "predict rexnet_050 a.jpg": (1, "there are no published weights of rexnet_050"),
    "validate rexnet_050 digits": (1, "there are no published weights of rexnet_050"),
    "export nothing.pt --output a.onnx": (1, "there is no file 'nothing.pt'"),
    "quantize best.pt --data nothing --output a.onnx": (1, "nothing is not a dataset name"),
    "bench rexnet100": (2, "did you mean rexnet_100"),
    "serve nothing.pt": (1, "there is no file 'nothing.pt'"),
    "serve best.pt best.pt": (2, "two models have the name"),
    "serve stats=best.pt": (2, "'stats' cannot be the name of a model"),
    "serve best.pt --log images": (2, "--log is 'images', a folder"),
    "serve best.pt --log nothing/log": (2, "there is no folder 'nothing'"),
    "serve rexnet_050": (1, "there are no published weights of rexnet_050"),
    "card best.pt --output .": (1, "--output is '.', which contains a.jpg"),
    "card best.pt --output nothing/card": (1, "there is no folder 'nothing'"),
    "card --output out nothing": (2, "there is no network, file or folder 'nothing'"),
    "report nothing": (2, "'nothing' is not a run folder"),
    "report run digits": (2, "'digits' is not a run folder"),
    "study advise nothing": (2, "there is no network, file or folder 'nothing'"),
    "fit-budget --latency-ms 5 --family nothing": (2, "--family is nothing"),
    "train digits --output best.pt": (1, "--output is 'best.pt', a file"),
    "detect train": (2, "no data given"),
    "detect train digits": (1, "digits is a named dataset, without annotations in COCO's layout"),
    "detect validate best.pt digits": (1, "digits is a named dataset, without annotations in COCO's layout"),
    "detect validate best.pt images --curves images": (1, "--curves is 'images', a folder"),
    "detect predict best.pt a.jpg --out a.jpg": (1, "--out is 'a.jpg', a file"),
    "export best.pt --output a.foo": (2, "--output is a.foo; allowed: names that end in .onnx"),
    "export best.pt --output nothing/a.onnx": (1, "there is no folder 'nothing'"),
    "quantize best.pt --data digits --output nothing/a.onnx": (1, "there is no folder 'nothing'"),
    "bench --output nothing/a.json": (1, "there is no folder 'nothing'"),
    "bench --plot images": (1, "--plot is 'images', a folder"),
    "card best.pt --output a.jpg": (1, "--output is 'a.jpg', a file"),
    "report run --output images": (1, "--output is 'images', a folder"),
    "report run run": (2, "given twice"),
    "study rank --output a.jpg": (1, "--output is 'a.jpg', a file"),
    "study rank --model rexnet_100 --data nothing": (1, "nothing does not exist"),
    "study depth --output a.jpg": (1, "--output is 'a.jpg', a file"),
    "study factors nothing": (1, "nothing is not a dataset name"),
    "study spectra rexnet_100 --data nothing": (1, "nothing does not exist"),
    "study rewrite rexnet_100 --output a.jpg": (1, "--output is 'a.jpg', a file"),
    "search run nothing": (1, "nothing is not a dataset name"),
    "search run digits --output a.jpg": (1, "--output is 'a.jpg', a file"),
    "models nothing": (2, "takes no options"),
    "search run digits --sampler nothing": (2, "--sampler is 'nothing'"),
    "search run digits --constraint z": (2, "--constraint is 'z'"),
    "search report nothing": (1, "there is no search in 'nothing'"),
    "search export nothing": (1, "there is no search in 'nothing'"),
    "data check run": (1, "run is a run folder"),
}

WITHOUT_EXTRAS = {
    "export best.pt --output a.onnx": (1, "pip install 'rexnet[deploy]'"),
    "export best.pt --output a.xml": (1, "pip install 'rexnet[deploy]'"),
    "quantize best.pt --data digits --output a.onnx": (1, "pip install 'rexnet[deploy]'"),
    "detect train images": (1, "pip install 'rexnet[detect]'"),
    "detect validate best.pt images": (1, "pip install 'rexnet[detect]'"),
    "serve best.pt": (1, "pip install 'rexnet[serve]'"),
    "search run digits": (1, "pip install 'rexnet[search]'"),
}
EXTRAS = ("onnx", "onnxruntime", "openvino", "hotcoco", "uvicorn", "starlette", "fastapi", "optuna")


@pytest.mark.parametrize(("cases", "missing"), [(CASES, ()), (WITHOUT_EXTRAS, EXTRAS)])
def test_a_mistake_is_refused_before_torch_is_imported(tmp_path, cases, missing):
    for folder in ("run", "images", "empty"):
        (tmp_path / folder).mkdir()
    (tmp_path / "run" / "config.json").write_text('{"network": {"model": "rexnet_100"}}')
    for name in ("best.pt", "a.jpg"):
        (tmp_path / name).touch()
    command = [sys.executable, "-c", SCRIPT, json.dumps(list(cases)), *missing]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for arguments, code, error, loaded in json.loads(done.stdout):
        expected = cases[arguments]
        assert code == expected[0] and expected[1] in error and error.count("\n") == 1, (arguments, code, error)
        assert loaded == [], arguments
