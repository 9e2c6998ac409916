import sys

import numpy as np
import pytest

from rexnet import cli
from rexnet.data.datasets import open_dataset
from rexnet.data.datasets.hugging_face import load_hugging_face
from rexnet.data.loaders import EvalBatches
from rexnet.data.preprocess import Preprocess
from rexnet.errors import BadImageError
from tests.drawings import draw

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    return library


def save_parquet(datasets, folder, splits, *, image="img", label="fine", names=("cat", "dog", "fox")):
    folder.mkdir()
    for split, count in splits.items():
        features = datasets.Features({image: datasets.Image(), label: datasets.ClassLabel(names=list(names))})
        rows = {image: [draw("cat", n) for n in range(count)], label: [n % len(names) for n in range(count)]}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(str(folder / f"{split}-00000-of-00001.parquet"))
    return f"hfds/{folder}"


def test_parquet_files_with_columns_of_any_name(datasets, tmp_path):
    data = save_parquet(datasets, tmp_path / "set", {"train": 12, "test": 6})
    sets = open_dataset(data).for_training()
    assert (len(sets.train), len(sets.val), sets.classes) == (12, 6, ("cat", "dog", "fox"))
    assert sets.train.targets.tolist() == [0, 1, 2] * 4 and sets.train.targets.dtype == np.int64
    assert sets.train.load(5).tobytes() == draw("cat", 5).tobytes()
    assert sets.val.name(3).endswith("/test/3")
    assert open_dataset(data).small_images
    assert open_dataset(data).for_measuring(("fox", "dog", "cat")).targets.tolist() == [2, 1, 0] * 2
    batches = EvalBatches(sets.val, Preprocess(image_size_px=32), batch_size=4, workers=1)
    assert [i for batch in batches for i in batch.indices.tolist()] == list(range(6))


def test_a_row_without_an_image_is_a_bad_image(datasets, tmp_path, capsys):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [None, *(draw("cat", n) for n in range(7))], "label": [0, 1] * 4}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "set" / "train-0.parquet"))
    data = f"hfds/{tmp_path}/set"
    with pytest.raises(BadImageError, match=r"train/0 cannot be used as an image: the row has no image"):
        load_hugging_face(data)["train"].load(0)
    with pytest.raises(SystemExit):
        cli.main(["data", "check", data, "--workers", "0"])
    assert "train/0: the row has no image" in capsys.readouterr().out


def test_an_image_folder(datasets, image_folder):
    sets = open_dataset(f"hfds/{image_folder}").for_training()
    files = open_dataset(image_folder).for_training()
    assert sets.classes == files.classes and (len(sets.train), len(sets.val)) == (36, 12)
    pixels = [{(s.load(i).tobytes(), int(s.targets[i])) for i in range(12)} for s in (sets.val, files.val)]
    assert pixels[0] == pixels[1]


def test_class_names_in_a_column_of_text_stay_as_written(datasets, tmp_path):
    rows = {"image": [draw("cat", number) for number in range(4)], "label": ["no", "yes", "no", "10 a"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train-0.parquet"))
    images = load_hugging_face(f"hfds/{tmp_path}")["train"]
    assert images.classes == ("10 a", "no", "yes") and images.targets.tolist() == [1, 2, 1, 0]


def test_one_split_is_divided(datasets, tmp_path):
    data = save_parquet(datasets, tmp_path / "set", {"train": 30})
    sets = open_dataset(data).for_training(val_fraction=0.2, seed=1)
    assert (len(sets.train), len(sets.val)) == (24, 6) and "20 % of each class for validation" in sets.description
    few = open_dataset(data).for_training(val_fraction=0.2, seed=1, shots=2).train
    assert few.targets.tolist().count(1) == 2 and len(few) == 6
    val = open_dataset(data).for_measuring(sets.classes, random_split=sets.random_split)
    assert [val.name(i) for i in range(6)] == [sets.val.name(i) for i in range(6)]
    for images in (sets.train, sets.val, few):
        number = int(images.name(2).rpartition("/")[2])
        assert images.load(2).tobytes() == draw("cat", number).tobytes()


def test_a_bad_image_is_named(datasets, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": b"no", "path": None}] * 4, "label": [0, 1, 0, 1]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    with pytest.raises(BadImageError, match=r"train/2 cannot be used as an image"):
        load_hugging_face(f"hfds/{tmp_path}/set")["train"].load(2)


@pytest.mark.parametrize("missing", [None, -1])
def test_images_without_a_label(datasets, tmp_path, missing):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = {"image": [{"bytes": b"no", "path": None}] * 4, "label": [0, 1, missing, 1]}
    (tmp_path / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "set" / "train.parquet"))
    with pytest.raises(ValueError, match="has images without a label in its split train"):
        load_hugging_face(f"hfds/{tmp_path}/set")


def test_unusable_datasets_are_refused_in_one_sentence(datasets, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "train.csv").write_text("a,b\n1,2\n")
    for name, said in (
        (str(tmp_path / "text"), "must have one column of images, but has none among a, b"),
        (str(tmp_path / "nothing"), "cannot be loaded"),
        ("somebody/images", "cannot be loaded"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            open_dataset(f"hfds/{name}").for_training()
        assert len(str(caught.value).splitlines()) == 1


def test_an_unreachable_hub_is_queried_once(datasets, monkeypatch, capfd):
    def ask(address):
        asked.append(address)
        raise TimeoutError("no answer")

    asked = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("rexnet.models.hub.ask_url", ask)
    with pytest.raises(ValueError, match="hfds/somebody/images cannot be loaded"):
        open_dataset("hfds/somebody/images").for_training()
    assert len(asked) == 1 and datasets.config.HF_HUB_OFFLINE is False
    assert capfd.readouterr().err == ""


def test_the_missing_package_is_named_with_its_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'rexnet\[huggingface\]'"):
        open_dataset("hfds/x").for_training()


@pytest.mark.parametrize("name", ["tfds/mnist", "wds/x", "hfids/x", "timm/x", "digit"])
def test_timms_other_readers_and_misspellings_get_a_hint(name):
    with pytest.raises(ValueError, match="hfds/NAME"):
        open_dataset(name).for_training()
