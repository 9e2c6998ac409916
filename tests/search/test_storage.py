"""The storage of a search."""

import re
import shlex
from dataclasses import replace

import pytest

from rexnet.cli import main
from rexnet.search.recipes import starting_point
from rexnet.search.run import search
from rexnet.search.storage import existing_study, load_study, open_storage
from tests.search.conftest import other
from tests.search.test_run import COMMAND, drawn

pytest.importorskip("optuna")


def test_a_journal_is_a_storage_too(search_config, tmp_path, instant_training):
    config = search_config(candidates=2, storage=f"journal:{tmp_path / 'journal.log'}")
    assert len(drawn(search(config))) == 2
    assert len(drawn(search(other(config, "engine", candidates=3)))) == 3


@pytest.mark.seconds
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ({"storage": "journal:"}, "--storage is 'journal:'; allowed: journal:FILE in an existing folder"),
        ({"storage": "journal:/no/such/folder/journal.log"}, "allowed: journal:FILE in"),
        ({"storage": "study.db"}, "--storage is 'study.db'; allowed: a database's URL"),
        ({"storage": "nosuchdb://user:secret@host/x"}, "cannot be opened"),
        ({"storage": "sqlite:////no/such/folder/study.db"}, "cannot be opened"),
    ],
)
def test_impossible_storages_are_refused(search_config, engine, words):
    with pytest.raises(ValueError, match=words) as error:
        search(search_config(**engine))
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.seconds
def test_the_address_of_a_storage_is_not_saved_in_it(search_config, tmp_path, instant_training):
    """It may hold a password."""
    config = search_config(candidates=1, storage=f"sqlite:///{tmp_path / 'secret.db'}")
    search(config)
    assert "secret.db" not in str(existing_study(config.engine).user_attrs)
    assert starting_point(config).engine.storage == config.engine.storage


@pytest.mark.seconds
@pytest.mark.parametrize("name", ["why?", "a%20b", "a {b} #c"])
def test_a_search_is_in_exactly_the_given_folder(tmp_path, instant_training, name, capsys):
    folder = str(tmp_path / name)
    command = [*COMMAND.split(), "--comparisons", "0", "--output", folder]
    main([*command, "--candidates", "3"])
    (printed,) = re.findall("tables and figures: rexnet (.*)", capsys.readouterr().out)
    assert shlex.split(printed) == ["search", "report", folder]
    main([*command, "--candidates", "4"])
    assert "4 trials" in capsys.readouterr().out, "the search continues"
    main(shlex.split(printed))
    main(["search", "export", folder, "--output", f"{folder}/network.json"])
    assert {"study.db", "report", "network.json"} <= {path.name for path in (tmp_path / name).iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_missing_study_is_named_without_the_password(tmp_path, search_config, instant_training):
    config = search_config(candidates=1, comparisons=0)
    search(config)
    url = f"sqlite://me:secret@/{config.engine.output}/study.db?x=1"
    with pytest.raises(ValueError, match="there is no search 'other' in") as error:
        load_study(replace(config.engine, storage=url, study="other"), open_storage(config.engine))
    assert "secret" not in str(error.value)
