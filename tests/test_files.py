import os
import subprocess
import sys

import pytest

from rexnet.files import check_new_folder, check_output_file, check_output_folder, read_text, write_whole


def test_text_and_bytes_replace_what_was_there(tmp_path):
    file = tmp_path / "naïve name.json"
    write_whole(file, "ä\n")
    assert file.read_bytes() == "ä\n".encode()
    write_whole(file, b"\x00\x01")
    assert file.read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path) == [file.name]


def test_a_full_disk_leaves_only_the_old_content(tmp_path):
    file = tmp_path / "kept.json"
    write_whole(file, "old")
    script = (
        "import resource, signal, sys; from rexnet.files import write_whole\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try: write_whole(sys.argv[1], b'x' * 5000)\n"
        "except OSError: sys.exit(7)"
    )
    assert subprocess.run([sys.executable, "-c", script, file]).returncode == 7
    assert file.read_text() == "old" and os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize(("name", "said"), [(".", "a folder"), ("no/x.json", "there is no folder")])
def test_impossible_output_files_are_refused_beforehand(tmp_path, monkeypatch, name, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"--output is '{name}'.*{said}"):
        check_output_file(name)
    check_output_file("new.json")
    check_output_file("/dev/null")


def test_a_new_folder_needs_a_parent_that_is_writable(tmp_path, monkeypatch):
    check_output_folder(tmp_path / "new/inside")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    for path in (tmp_path, tmp_path / "new/inside"):
        with pytest.raises(ValueError, match=f"OUTPUT is '{path}', which is not writable; name another folder"):
            check_new_folder(path)


def test_a_device_is_written_to_not_replaced():
    write_whole("/dev/null", "x")
    assert not os.path.isfile("/dev/null")


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes(b"\xef\xbb\xbfcat\n\xff\n")
    assert read_text(file, errors="surrogateescape") == "cat\n\udcff\n"
    with pytest.raises(ValueError, match=r"classes.txt cannot be read: it is not UTF-8 text; save it as UTF-8"):
        read_text(file)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_utf_16_is_named(tmp_path, encoding, errors):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeffcat\n".encode(encoding))
    with pytest.raises(ValueError, match=r"classes.txt cannot be read: it is UTF-16; save it as UTF-8"):
        read_text(file, errors=errors)
