import os
from contextlib import nullcontext

import pytest

from rexnet.cli import main
from rexnet.data.boxes.convert import ConvertConfig
from tests.boxed_files import convert, files_of, write_image
from tests.coco_files import many_images


class TestOutput:
    def test_never_overwrites(self, tmp_path):
        source = tmp_path / "yolo"
        write_image(source / "images" / "x.png")
        write_image(source / "images" / "yy.png")
        (source / "classes.txt").write_text("a")
        full = tmp_path / "full"
        full.mkdir()
        (full / "keep").write_text("x")
        for output, said in (
            (full, "which contains keep"),
            (full / "keep", ", a file"),
            (source / "out", "lies in"),
            (tmp_path / "no" / "out", "there is no folder"),
        ):
            with pytest.raises(ValueError, match=said):
                convert(source, output)
        (tmp_path / "empty").mkdir()
        assert sum(convert(source, tmp_path / "empty").images.values()) == 2
        assert os.stat(tmp_path / "empty" / "val").st_nlink >= 2 and len(files_of(full)) == 1
        assert not [name for name in os.listdir(tmp_path) if "unfinished" in name]

    def test_files_are_copied_if_links_are_impossible(self, tmp_path, monkeypatch):
        source = tmp_path / "yolo"
        write_image(source / "images" / "x.png")
        write_image(source / "images" / "yy.png")
        (source / "classes.txt").write_text("a")
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError(18, "another disk")))
        convert(source, tmp_path / "out")
        assert len(list((tmp_path / "out").rglob("*.png"))) == 2

    def test_neither_layout(self, tmp_path):
        (tmp_path / "x").mkdir()
        for options, said in (
            ({}, "neither"),
            ({"format": "voc"}, "lacks Annotations/ with"),
            ({"format": "yolo"}, "no class names"),
        ):
            with pytest.raises(ValueError, match=said):
                convert(tmp_path / "x", tmp_path / "out", **options)
        with pytest.raises(ValueError, match="is not a folder"):
            convert(tmp_path / "y", tmp_path / "out")

    def test_what_is_already_in_the_layout_of_coco(self, tmp_path):
        for side in ("train", "val"):
            many_images(tmp_path / "coco", 2, side)
        with pytest.raises(ValueError, match="already in COCO's layout, which rexnet detect train takes"):
            convert(tmp_path / "coco", tmp_path / "out")

    @pytest.mark.parametrize("fields", [{"val_fraction": 1.0}, {"seed": -1}, {"workers": -1}])
    def test_settings(self, fields):
        with pytest.raises(ValueError, match="allowed:"):
            ConvertConfig(data="x", output="y", **fields)

    @pytest.mark.parametrize(("bad", "code"), [(1, 0), (2, 1)])
    def test_exit_code_if_more_than_a_tenth_is_skipped(self, tmp_path, capsys, bad, code):
        source = tmp_path / "yolo"
        (source / "labels").mkdir(parents=True)
        for number in range(10):
            write_image(source / "images" / f"{number}.png")
            (source / "labels" / f"{number}.txt").write_text(f"{7 if number < bad else 0} 0.5 0.5 1 1\n")
        (source / "classes.txt").write_text("a")
        arguments = ["detect", "convert", str(source), str(tmp_path / "out"), "--workers", "0"]
        with pytest.raises(SystemExit) if code else nullcontext() as stopped:
            main(arguments)
        printed = capsys.readouterr()
        assert "skipped.csv" in printed.out and ("more than a tenth" in printed.err) == bool(code)
        assert stopped is None or stopped.value.code == code
        lines = (tmp_path / "out" / "skipped.csv").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 + bad and "its class is 7" in lines[1]
