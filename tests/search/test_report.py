"""From a finished search to tables, figures and a file that other commands take."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import rexnet
from rexnet.cli import main
from rexnet.detection.detectors import create_detector
from rexnet.search.analysis import (
    Estimate,
    compare_line_and_stages,
    compare_residuals,
    correlate_predictors,
    correlate_searches,
    rank_correlation,
    rank_sampled,
    split_groups,
)
from rexnet.search.config import ExportConfig, SearchReportConfig
from rexnet.search.report import report
from rexnet.search.results import Candidate, best_first, export
from rexnet.search.run import enqueue_comparisons, search
from rexnet.search.shape import fit_line
from rexnet.search.space import Space
from rexnet.search.storage import create_study, load_study, open_storage
from rexnet.study.layers import load_network
from tests.search.conftest import make_config, make_training_instant, other

pytest.importorskip("optuna")


def candidate(number, channels, accuracy, comparison=None, **more):
    return Candidate(
        number=number,
        channels=channels,
        values=(accuracy,),
        parameters=100 + number,
        macs=1000,
        comparison=comparison,
        accuracies=(accuracy,),
        **more,
    )


def a_search(count=40, noise=0.0):
    """Candidates that are the better the nearer they are to a line, and half of it known after an epoch."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        channels = tuple(np.sort(random.integers(8, 80, 5)).tolist())
        accuracy = 90 - 40 * fit_line(channels).residual + noise * random.standard_normal()
        curve = (accuracy - 20 + random.standard_normal(), accuracy)
        found.append(
            candidate(number, channels, accuracy, by_epoch=(curve,), scores={"effective_rank": random.random()})
        )
    return found


def test_groups_are_tenths_by_accuracy():
    found = a_search(40)
    top, middle, bottom = split_groups(found, Space(blocks=5))
    ranked = sorted((row.accuracy for row in found), reverse=True)
    assert (top.size, middle.size, bottom.size) == (4, 4, 4)
    assert top.accuracy.mean == pytest.approx(np.mean(ranked[:4]))
    assert middle.accuracy.mean == pytest.approx(np.mean(ranked[18:22]))
    assert bottom.accuracy.deviation == pytest.approx(np.std(ranked[-4:], ddof=1))
    assert top.residual.mean < bottom.residual.mean
    difference = compare_residuals(found)
    assert difference is not None
    assert difference.high < 0


def test_networks_that_were_not_sampled_or_not_trained_are_in_no_group():
    found = a_search(5)
    pruned = Candidate(number=90, channels=(1, 2, 3, 4, 5), values=(), parameters=1, macs=1, comparison=None)
    again = candidate(91, found[0].channels, found[0].accuracy)
    assert rank_sampled([*found, candidate(92, (9, 9, 9, 9, 9), 99.0, "line"), pruned, again]) == rank_sampled(found)
    with pytest.raises(ValueError, match="needs three or more"):
        split_groups(found[:2], Space(blocks=5))


def test_predictors_differ_from_useless_ones():
    known = correlate_predictors(a_search(60))
    assert known["accuracy after epoch 1"].low > 0.8
    assert known["distance from a line"].value == pytest.approx(-1.0)
    assert known["effective rank, untrained"].low < 0 < known["effective rank, untrained"].high
    assert "MACs" not in known  # all alike
    assert rank_correlation([1, 2, 3], [1, 2, 3]) is None


def test_the_best_is_not_the_luckiest_seed():
    rows = [candidate(seed, (4, 5, 6), accuracy, "line") for seed, accuracy in enumerate((50.0, 70.0, 54.0))]
    rows += [candidate(3, (4, 4, 6), 60.0), candidate(4, (3, 4, 7), 56.0)]
    assert [(row.channels, row.values) for row in best_first(rows, "accuracy")] == [
        ((4, 4, 6), (60.0,)),
        ((4, 5, 6), (58.0,)),
        ((3, 4, 7), (56.0,)),
    ]
    assert best_first(rows, "macs")[0].channels == (3, 4, 7)  # less is better


def test_searches_agree_on_common_networks():
    found = a_search(30)
    cheaper = [candidate(row.number, row.channels, row.accuracy - 20) for row in found[10:]]
    assert correlate_searches(found, cheaper)[0] == 20
    assert correlate_searches(found, cheaper)[1].value == pytest.approx(1.0)
    assert correlate_searches(found, cheaper[:3]) == (3, None)
    assert correlate_searches(found, []) == (0, None)


def test_interval_of_a_rank_correlation_covers():
    """About 95 of 100 intervals hold the true value, here 6/pi asin(r/2) of normal numbers."""
    random = np.random.default_rng(1)
    truth, inside = 6 / np.pi * np.arcsin(0.6 / 2), 0
    for _ in range(300):
        first, noise = random.standard_normal((2, 60))
        estimate = rank_correlation(first, 0.6 * first + 0.8 * noise)
        assert isinstance(estimate, Estimate)
        inside += estimate.low <= truth <= estimate.high
    assert 275 <= inside <= 297


def test_line_and_stages_are_compared_by_their_seeds():
    rows = [candidate(i, (4, 5, 6), 60.0 + i, "line") for i in range(3)]
    assert compare_line_and_stages(rows) is None
    result = compare_line_and_stages([*rows, *(candidate(9 + i, (4, 4, 6), 50.0 + i, "stages") for i in range(3))])
    assert result is not None
    assert (result.line, result.stages, result.seeds) == ((61.0, 1.0), (51.0, 1.0), 3)
    assert result.difference is not None
    assert result.difference.value == pytest.approx(10.0)
    assert 7 < result.difference.low < result.difference.high < 13


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "search"
    with pytest.MonkeyPatch.context() as patch:
        make_training_instant(patch)
        search(make_config(folder, candidates=10, comparisons=2))
    return folder


@pytest.fixture
def finished(finished_folder, search_config, tmp_path):
    """Settings of a finished search, in a copy of its folder."""
    shutil.copytree(finished_folder, tmp_path / "search")
    return search_config(candidates=10, comparisons=2)


@pytest.mark.seconds
def test_report_has_tables_figures_and_plots(finished, tmp_path, capsys):
    folder = finished.engine.output
    main(["search", "report", folder])
    out = capsys.readouterr().out
    assert "| top 10 % | 1 |" in out
    assert "A straight line reaches" in out
    names = {path.name for path in (tmp_path / "search" / "report").iterdir()}
    tables = {f"{name}.csv" for name in ("best", "candidates", "groups", "predictors")}
    figures = {f"{name}.{ending}" for name in ("groups", "predictors") for ending in ("png", "svg")}
    assert names == {"report.md", "optuna.html", *tables, *figures}
    text = (tmp_path / "search" / "report" / "report.md").read_text()
    best = max(search(finished), key=lambda row: row.values[0])
    assert f"| {best.name} | {best.values[0]:.2f} % |" in text
    assert "\ndigits: 200 train / 100 val images of 10 classes (" in text, "the data in words, not its record"
    assert "4 epochs at 8 px, 1 training per candidate" in text
    with (tmp_path / "search" / "report" / "candidates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 14
    for row in rows:
        channels = tuple(map(int, row["channels"].split("-")))
        assert float(row["residual"]) == pytest.approx(fit_line(channels).residual, rel=1e-4)
    page = (tmp_path / "search" / "report" / "optuna.html").read_text()
    assert page.count("<div") > 3
    assert "https://cdn" not in page[: page.index("plotly.js")]


@pytest.mark.seconds
def test_searches_are_compared_by_budget_and_in_the_same_networks(finished, search_config, tmp_path, instant_training):
    """Random searches sample the same networks with one seed, whatever they train for."""
    wide = other(search_config(tmp_path / "wide", candidates=5), "space", max_macs=800_000, max_parameters=90_000)
    cheap = other(search_config(tmp_path / "cheap", candidates=10, comparisons=2), "images", shots=5)
    searches = [finished, wide, cheap]
    for config in searches[1:]:
        search(config)
    folders = tuple(config.engine.output for config in searches)
    folder = report(SearchReportConfig(searches=folders, output=str(tmp_path / "r")))
    with (folder / "budgets.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["search"] for row in rows] == ["search", "wide", "cheap"]
    assert float(rows[1]["MACs M"]) > float(rows[0]["MACs M"])
    assert (folder / "wide-groups.png").stat().st_size > 5000
    with (folder / "agreement.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["search"], row["other search"]) == ("search", "cheap")
    assert (row["networks of both"], row["rank correlation"]) == ("10", "1.00")
    assert "## The same networks in two searches" in (folder / "report.md").read_text()


@pytest.mark.seconds
@pytest.mark.parametrize("candidates", [0, 1, 2])
def test_a_search_that_has_hardly_begun_has_a_report(search_config, instant_training, candidates):
    config = search_config(candidates=max(1, candidates))
    if candidates:
        search(config)
    else:  # as where it was stopped at once
        Path(config.engine.output).mkdir()
        storage = open_storage(config.engine)
        create_study(config, storage)
        enqueue_comparisons(config, load_study(config.engine, storage))
    text = (report(SearchReportConfig(searches=(config.engine.output,))) / "report.md").read_text()
    assert ("No candidate is finished yet." in text) == (candidates == 0)
    assert "Groups need 3 trained candidates or more." in text


def test_a_folder_without_a_search_is_refused_and_unchanged(tmp_path):
    with pytest.raises(ValueError, match="there is no search in"):
        report(SearchReportConfig(searches=(str(tmp_path),)))
    with pytest.raises(ValueError, match="there is no search in"):
        export(ExportConfig(search=str(tmp_path / "nothing"), output=str(tmp_path / "x.json")))
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="no search given"):
        SearchReportConfig(searches=())


@pytest.mark.seconds
def test_an_exported_network_works_with_every_command(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["search", "export", finished.engine.output])
    assert "use it: rexnet train DATA --model network.json" in capsys.readouterr().out
    best = max(search(finished), key=lambda row: row.values[0])
    network = rexnet.create_model("network.json", num_classes=7)
    assert tuple(block.out_channels for block in network.config.blocks) == best.channels
    assert network(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    words = "train digits --model network.json --epochs 1 --image-size 8 --shots 4 --batch-size 20 --device cpu"
    main([*words.split(), "--crop-padding-px", "1"])
    model, preprocess = load_network("network.json", image_size=32)  # of rexnet study
    assert tuple(block.out_channels for block in model.config.blocks) == best.channels
    assert preprocess.image_size_px == 32
    trained = rexnet.load("runs/network-digits-1/best.pt")
    assert tuple(block.out_channels for block in trained.config.blocks) == best.channels
    # And goes on from its own weights, though no name tells what network it is.
    words = "train digits --weights runs/network-digits-1/best.pt --epochs 1 --shots 4 --batch-size 20 --device cpu"
    main(words.split())


def test_export_of_one_candidate_or_of_its_family(finished, tmp_path):
    found = search(finished)
    path = tmp_path / "network.json"
    for wanted in (str(found[3].number), found[3].name):
        network = export(ExportConfig(search=finished.engine.output, candidate=wanted, output=str(path)))
        assert tuple(block.out_channels for block in network.blocks) == found[3].channels
    line = fit_line(found[3].channels)
    wide = export(ExportConfig(search=finished.engine.output, candidate="3", width=2.0, output=str(path)))
    assert tuple(block.out_channels for block in wide.blocks) == line.channels(4, width=2.0)
    coarse = ExportConfig(search=finished.engine.output, stem_stride=2, strided_blocks=(1, 2, 3, 4), output=str(path))
    assert export(coarse).output_stride == 32
    create_detector("ssdlite", backbone=str(path), num_classes=2)
    assert json.loads(path.read_text()) == json.loads(json.dumps(export(coarse).to_dict()))
    with pytest.raises(ValueError, match="allowed: best, a number up to"):
        export(ExportConfig(search=finished.engine.output, candidate="1-2-3", output=str(path)))
