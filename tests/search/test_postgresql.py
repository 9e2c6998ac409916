"""One search shared by two processes through a PostgreSQL server, which the test starts for itself.

It needs PostgreSQL's server programs: `apt-get install postgresql` on Debian, and `pip install "psycopg[binary]"`.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rexnet.search.config import EngineOptions
from rexnet.search.results import candidates_of
from rexnet.search.storage import existing_study
from tests.search.test_run import drawn, start

pytest.importorskip("psycopg")


def find_programs() -> Path | None:
    """Debian keeps them off the path."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *filter(None, [shutil.which("initdb")])]
    return Path(found[0]).resolve().parent if found else None


PROGRAMS = find_programs()


def server_user() -> str | None:
    """The server refuses to be root."""
    return "postgres" if os.geteuid() == 0 else None


@pytest.fixture
def server() -> Iterator[str]:
    """URL of a fresh database, reached through a socket in a folder of its own."""
    if PROGRAMS is None:
        pytest.skip("needs PostgreSQL's initdb; on Debian: apt-get install postgresql")
    user = server_user()
    if user is not None and user not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip(
            "root cannot start PostgreSQL, and there is no user postgres; on Debian: apt-get install postgresql"
        )
    # pytest's folders may not be entered by another user, and a socket's path is short.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        if user is not None:
            shutil.chown(folder, user)

        def run(program: str, *words: str) -> None:
            command = [str(PROGRAMS / program), "-D", f"{folder}/data", *words]
            done = subprocess.run(command, user=user, cwd=folder, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr

        run("initdb", "-U", "searcher", "-A", "trust", "--no-sync")
        run("pg_ctl", "start", "-w", "-l", f"{folder}/log", "-o", f"-c listen_addresses= -k {folder} -c fsync=off")
        try:
            yield f"postgresql+psycopg://searcher@/postgres?host={folder}"
        finally:
            run("pg_ctl", "stop", "-m", "immediate")


@pytest.mark.slow
def test_two_processes_share_a_search_in_postgresql(server, tmp_path):
    words = ("--candidates", "4", "--storage", server, "--study", "shared")
    processes = [start(tmp_path / name, *words) for name in ("one", "two")]
    outputs = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    study = existing_study(EngineOptions(storage=server, study="shared"))
    found = candidates_of(study)
    trained = [row.channels for row in drawn(found) if row.seconds is not None]
    assert len(trained) == len(set(trained)) >= 4
    assert sorted(row.comparison for row in found if row.comparison) == ["line", "stages"]
