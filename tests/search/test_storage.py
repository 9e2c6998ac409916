"""Where a search is kept."""

import pytest

from rexnet.search.config import ExportConfig, SearchReportConfig
from rexnet.search.export import export
from rexnet.search.recipes import starting_point
from rexnet.search.report import report
from rexnet.search.run import search
from rexnet.search.storage import existing_study
from tests.search.conftest import other
from tests.search.test_run import drawn

pytest.importorskip("optuna")


def test_a_journal_is_a_storage_too(search_config, tmp_path, instant_training):
    config = search_config(candidates=2, storage=f"journal:{tmp_path / 'journal.log'}")
    assert len(drawn(search(config))) == 2
    assert len(drawn(search(other(config, "engine", candidates=3)))) == 3


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"storage": "journal:"}, "--storage is 'journal:'; allowed: journal:FILE in a folder that is there"),
        ({"storage": "journal:/no/such/folder/journal.log"}, "allowed: journal:FILE in a folder"),
        ({"storage": "study.db"}, "--storage is 'study.db'; allowed: a database's URL"),
        ({"storage": "nosuchdb://user:secret@host/x"}, "cannot be opened"),
        ({"storage": "sqlite:////no/such/folder/study.db"}, "cannot be opened"),
    ],
)
def test_storages_that_cannot_be_are_refused(search_config, engine, words):
    with pytest.raises(ValueError, match=words) as error:
        search(search_config(**engine))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.seconds
def test_the_way_to_a_storage_is_not_kept_in_it(search_config, tmp_path, instant_training):
    """It may hold a password."""
    config = search_config(candidates=1, storage=f"sqlite:///{tmp_path / 'secret.db'}")
    search(config)
    assert "secret.db" not in str(existing_study(config.engine).user_attrs)
    assert starting_point(config).engine.storage == config.engine.storage


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["why?", "a%20b", "a {b} #c"])
def test_a_search_lies_in_exactly_the_folder_that_was_named(search_config, tmp_path, instant_training, name):
    folder = tmp_path / name
    config = search_config(folder, candidates=2)
    search(config)
    assert (folder / "study.db").stat().st_size > 0
    assert len(drawn(search(other(config, "engine", candidates=3)))) == 3, "the run goes on"
    assert report(SearchReportConfig(searches=(str(folder),))) == folder / "report"
    export(ExportConfig(search=str(folder), output=str(folder / "network.json")))
    assert (folder / "network.json").exists() and [path.name for path in tmp_path.iterdir()] == [name]
