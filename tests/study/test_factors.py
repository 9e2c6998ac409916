import json
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from rexnet.cli import main
from rexnet.data.datasets import open_dataset
from rexnet.models.config import config_text
from rexnet.models.cost import measure_cost
from rexnet.models.rexnet import RexNet
from rexnet.study import factor_run
from rexnet.study.config import FactorConfig
from rexnet.study.factor_run import study_factors
from rexnet.study.factors import (
    COLUMNS,
    FACTORS,
    IMAGE_PX,
    KIND,
    FactorRow,
    count_macs,
    network,
    read_factors,
    summarise,
)
from rexnet.training.run_folder import RunFolder

SMALL = {"scale": 0.1, "images": 40, "device": "cpu", "threads": 1}


def channels_of(config):
    return (config.blocks[0].in_channels, *(block.out_channels for block in config.blocks))


@pytest.mark.parametrize("scale", [1.0, 0.3, 0.1])
@pytest.mark.parametrize("factor", FACTORS, ids=lambda factor: factor.name)
def test_networks_have_the_published_macs_and_ratios(factor, scale):
    config = network(factor, scale=scale)
    with torch.device("meta"):
        macs = measure_cost(RexNet(config), IMAGE_PX).macs
    assert macs == pytest.approx(scale * factor.macs, rel=0.02)
    shape = {"expansion": factor.expansion, "penultimate": config.penultimate_channels}
    assert macs == count_macs(channels_of(config), **shape)
    for block in config.blocks:
        assert block.expanded_channels == factor.expansion * block.in_channels
        assert block.in_channels / block.out_channels == pytest.approx(factor.ratio, rel=0.02)
        assert (block.expand_activation, block.depthwise_activation) == (factor.activation, "relu6")


def test_the_baseline_has_the_stem_of_the_papers_search_networks():
    assert channels_of(network(FACTORS[0]))[0] == 16


def test_the_published_figures_rise_at_every_step_and_one_factor_changes():
    for before, after in pairwise(FACTORS):
        assert after.top1 > before.top1 and after.nuclear_norm > before.nuclear_norm
        changed = [getattr(before, name) != getattr(after, name) for name in ("expansion", "ratio", "activation")]
        assert sum(changed) == 1


@pytest.fixture
def made(monkeypatch):
    """Names of the networks that were measured, in order."""
    real, names = factor_run._measure, []

    def measure(config, factor, **options):
        names.append(f"{factor.name}-{options['seed']}")
        return real(config, factor, **options)

    monkeypatch.setattr(factor_run, "_measure", measure)
    return names


def test_untrained_networks_are_measured_once_and_extended(image_folder, tmp_path, made, capsys):
    words = ["study", "factors", str(image_folder), "--untrained", "--output", str(tmp_path / "out"), "--scale", "0.1"]
    main([*words, "--seeds", "1"])
    first = (tmp_path / "out/factors.csv").read_text()
    main([*words, "--seeds", "2"])
    assert (tmp_path / "out/factors.csv").read_text().startswith(first)
    assert made == [f"{factor.name}-{seed}" for seed in range(2) for factor in FACTORS]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("factors.csv", "summary.csv", "figure.png", "figure.svg")
    }
    assert "2 seeds" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*words, "--images", "5"])
    assert stop.value.code == 1 and "was written with --images 2000, not 5" in capsys.readouterr().err
    next((image_folder / "train").rglob("*.*")).unlink()
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 1 and "(train images, fingerprint differ)" in capsys.readouterr().err


def test_a_table_with_the_old_record_of_its_data_is_continued(image_folder, tmp_path):
    config = FactorConfig(data=str(image_folder), output=str(tmp_path), untrained=True, seeds=1, **SMALL)
    study_factors(config)
    _, *rest = (tmp_path / "factors.csv").read_text().splitlines(keepends=True)
    sentence = open_dataset(str(image_folder)).for_training().description
    old = "".join([f"# {KIND} {json.dumps({'data': sentence, **config.settings()})}\n", *rest])
    (tmp_path / "factors.csv").write_text(old)
    study_factors(replace(config, seeds=2))
    assert (tmp_path / "factors.csv").read_text().startswith(old)
    assert len(read_factors(tmp_path / "factors.csv")) == 2 * len(FACTORS)


@pytest.mark.seconds
def test_training_continues_after_a_kill_and_repeats_nothing(image_folder, tmp_path, made, monkeypatch):
    config = FactorConfig(data=str(image_folder), output=str(tmp_path / "out"), seeds=1, epochs=1, **SMALL)
    real = factor_run.final_features
    calls = []

    def killed(model, batches):
        calls.append(model.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(model, batches)

    monkeypatch.setattr(factor_run, "final_features", killed)
    with pytest.raises(KeyboardInterrupt):
        study_factors(config)
    stamp = (tmp_path / "out/runs/expansion-0/last.pt").stat().st_mtime_ns
    summaries = study_factors(config)
    assert made == ["baseline-0", "expansion-0", "expansion-0", "ratio-0", "activation-0"]
    assert (tmp_path / "out/runs/expansion-0/last.pt").stat().st_mtime_ns == stamp
    rows = read_factors(tmp_path / "out/factors.csv")
    for row, summary in zip(rows, summaries, strict=True):
        run = RunFolder(tmp_path / "out/runs" / f"{row.network}-0")
        assert row.top1 == run.rows()[-1]["val_top1"] == summary.top1.mean
        assert run.read("config.json")["network"]["model"].endswith(f"two_bottlenecks_{row.network}_x0.1.json")
        assert row.samples == len(list((image_folder / "val").rglob("*.*")))
        assert (row.macs, summary.seeds, summary.top1.deviation) == (summary.macs, 1, None)
    assert json.loads((tmp_path / "out/runs/ratio-0/summary.json").read_text())["model"] == "two_bottlenecks_ratio_x0.1"


@pytest.mark.slow
def test_parallel_trainings_equal_sequential_ones(image_folder, tmp_path, made):
    tables = []
    config = FactorConfig(data=str(image_folder), seeds=1, epochs=1, batch_size=8, **SMALL)
    for processes, workers in ((1, 0), (2, 1)):
        output = str(tmp_path / f"with {processes}")
        study_factors(replace(config, output=output, processes=processes, workers=workers))
        tables.append([replace(row, seconds=0.0) for row in read_factors(tmp_path / f"with {processes}/factors.csv")])
    assert tables[0] == tables[1] and len(tables[0]) == len(FACTORS)


def test_a_run_of_another_protocol_is_not_continued(image_folder, tmp_path):
    config = FactorConfig(data=str(image_folder), output=str(tmp_path / "out"), seeds=1, epochs=1, **SMALL)
    config.network_file(FACTORS[0]).parent.mkdir(parents=True)
    config.network_file(FACTORS[0]).write_text(config_text(config.networks["baseline"]))
    factor_run.train(config.training(FACTORS[0], seed=0))
    with pytest.raises(ValueError, match=r"has other settings: --batch-size 8 \(was 64\)"):
        study_factors(replace(config, batch_size=8))


def test_steps_are_means_of_differences_between_networks_of_one_seed():
    rows = [
        FactorRow(
            network=factor.name,
            seed=seed,
            macs=1,
            parameters=1,
            top1=10.0 * seed + place,
            samples=1,
            nuclear_norm=100.0 * seed + 2 * place,
            effective_rank=1.0,
            stable_rank=1.0,
            seconds=0.0,
        )
        for seed in range(3)
        for place, factor in enumerate(FACTORS)
    ]
    first, *others = summarise(rows, scale=1.0)
    assert first.top1_step is None and first.top1 == (10.0, 10.0)
    assert all(one.top1_step == (1.0, 0.0) and one.nuclear_norm_step == (2.0, 0.0) for one in others)
    assert len(COLUMNS) == len(vars(rows[0]))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"seeds": 0}, "--seeds is 0; allowed: 1 or more"),
        ({"scale": 0.001}, "no integer number of stem channels comes within 10 % of ratio 0.22"),
        ({"scale": -1}, "--scale is -1; allowed: above 0, up to 4"),
        ({"epochs": 0}, "--epochs is 0; allowed: 1 or more"),
        ({"shots": 0}, "--shots is 0; allowed: 1 or more"),
        ({"untrained": True, "epochs": 3}, "--epochs is 3; allowed: 30 with --untrained, which trains nothing"),
        ({"images": 1}, "--images is 1; allowed: 2 or more"),
    ],
)
def test_impossible_options_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        FactorConfig(data="digits", **fields)
