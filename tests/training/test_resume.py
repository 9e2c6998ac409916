import dataclasses
import json

import pytest

from rexnet.data.facts import DataFacts
from rexnet.detection.config import DetectTrainConfig
from rexnet.training.config import RunConfig, TrainConfig
from rexnet.training.resume import (
    changed_options,
    config_from_dict,
    config_to_dict,
    extend,
    require_data,
    settings_to_resume,
)


def test_config_survives_json(tiny_config):
    assert config_from_dict(TrainConfig, json.loads(json.dumps(config_to_dict(tiny_config)))) == tiny_config


def test_a_config_of_another_version_is_refused_by_name(tiny_config):
    values = config_to_dict(tiny_config)
    values["optim"]["nesterov"] = True
    with pytest.raises(ValueError, match="nesterov"):
        config_from_dict(TrainConfig, values)


def test_a_config_of_a_version_without_an_option_reads_its_default(tiny_config):
    values = config_to_dict(tiny_config)
    del values["schedule"]["restart_epochs"]
    assert config_from_dict(TrainConfig, values) == tiny_config


def test_changed_options_names_all_but_what_may_change(tiny_config, changed):
    moved = changed(
        tiny_config, "run", device="auto", workers=2, threads=1, output=None, resume="elsewhere", overwrite=False
    )
    assert changed_options(tiny_config, moved) == []
    other = changed(changed(moved, "optim", lr=1.0), "augment", mixup=0.5)
    other = dataclasses.replace(other, data="moved/elsewhere")  # what it holds is compared when it is read
    assert changed_options(tiny_config, other) == ["--mixup 0.5 (was 0.0)", "--lr 1.0 (was 0.05)"]


@pytest.mark.parametrize(("mine", "other"), [("rexnet detect train", TrainConfig), ("rexnet train", DetectTrainConfig)])
@pytest.mark.parametrize("named", ["resume", "output"])
def test_a_run_of_the_other_command_is_named(mine, other, named, tmp_path):
    (tmp_path / "last.pt").touch()
    saved = (DetectTrainConfig if other is TrainConfig else TrainConfig)(data="set")
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(saved)))
    run = RunConfig(resume=str(tmp_path)) if named == "resume" else RunConfig(resume=True, output=str(tmp_path))
    for read in (settings_to_resume, extend):
        with pytest.raises(ValueError, match=f"`{mine}`"):
            read(other(data="set", run=run))


def test_lost_data_of_a_run_is_named_as_such(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    config = TrainConfig(data=str(here), run=RunConfig(resume=str(tmp_path)))
    (tmp_path / "config.json").write_text(json.dumps(config_to_dict(TrainConfig(data=str(here)))))
    require_data(config)  # a run that has not read its data yet
    facts = DataFacts(title="here", train_images=1, val_images=1, classes=("a", "b"), path=str(here))
    (tmp_path / "data.json").write_text(json.dumps(facts.to_dict()))
    with pytest.raises(ValueError, match=r"the run started with, .*here, does not exist; .* DATA beside --resume"):
        require_data(config)
    require_data(dataclasses.replace(config, data=str(there)))
    require_data(TrainConfig(data=str(here), run=RunConfig(resume=True, output=str(tmp_path / "new"))))
