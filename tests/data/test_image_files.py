import os

import pytest
from PIL import Image

from rexnet.data.image_files import describe_other, find_images, image_files, list_images
from rexnet.text import printable


class TestFindImages:
    @pytest.fixture
    def folder(self, tmp_path):
        names = ["b.jpg", "a.PNG", "deep/er/c.webp", ".hidden.jpg", ".cache/d.jpg", "notes.txt", "with space é.jpeg"]
        for name in [*names, "line\nbreak.jpg", os.fsdecode(b"bytes\xff.jpg"), "[1].jpg"]:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
        (tmp_path / "folder.jpg").mkdir()
        (tmp_path / "folder.jpg" / "inside.gif").write_bytes(b"x")
        return tmp_path

    def test_folder(self, folder):
        expected = ["[1].jpg", "a.PNG", "b.jpg", "deep/er/c.webp", "folder.jpg/inside.gif", "line\nbreak.jpg"]
        expected += ["with space é.jpeg", os.fsdecode(b"bytes\xff.jpg")]
        found = find_images([folder])
        assert found == sorted(found, key=str)
        assert {str(path.relative_to(folder)) for path in found} == set(expected)

    def test_files_and_globs_keep_the_order_given_and_repeated_files_are_found_again(self, folder):
        found = find_images([folder / "b.jpg", f"{folder}/*.PNG", str(folder / "b.jpg"), folder / "notes.txt"])
        assert [path.name for path in found] == ["b.jpg", "a.PNG", "b.jpg", "notes.txt"]

    def test_globs(self, folder):
        assert find_images([f"{folder}/[[]1*.jpg"]) == [folder / "[1].jpg"]
        assert find_images([f"{folder}/[1].jpg"]) == [folder / "[1].jpg"]  # a name first, a pattern second
        assert [path.name for path in find_images([f"{folder}/**/*.webp"])] == ["c.webp"]
        assert [path.name for path in find_images([f"{folder}/d*"])] == ["c.webp"]

    def test_missing_files_and_patterns(self, folder):
        (folder / "broken.jpg").symlink_to("nowhere")
        assert find_images([folder / "broken.jpg"]) == [folder / "broken.jpg"], "whoever opens it says what is wrong"
        (folder / "empty").mkdir()
        for source, message in (
            (folder / "missing.jpg", "does not exist"),
            (f"{folder}/*.xyz", "contains no images"),
            (folder / "empty", "contains no images"),
        ):
            with pytest.raises(ValueError, match=message) as caught:
                find_images([folder / "b.jpg", source])
            assert printable(source) in str(caught.value)

    def test_links(self, folder):
        (folder / "deep" / "up").symlink_to(folder)
        (folder / "twin").symlink_to(folder / "deep")
        (folder / "broken.jpg").symlink_to("nowhere")
        (folder / "itself.jpg").symlink_to("itself.jpg")
        found = [os.path.relpath(path, folder) for path in image_files(folder)]
        assert "deep/er/c.webp" in found and "twin/er/c.webp" in found
        assert {"broken.jpg", "itself.jpg"} <= set(found), "whoever opens them says what is wrong"
        assert len(found) == len(set(found)) == 11

    def test_formats_that_cannot_be_read_are_counted(self, folder, caplog):
        for name in ("x.HEIC", "deep/y.heic", "deep/z.dng", "b.heic", ".hidden.heic"):
            (folder / name).write_bytes(b"x")
        found = list_images(folder)
        assert [os.path.relpath(path, folder) for path in found.other] == ["deep/y.heic", "deep/z.dng", "x.HEIC"]
        assert describe_other(found.other).startswith("1 .dng, 2 .heic files cannot be read")
        assert len(find_images([folder])) == len(found.files) == 8
        assert caplog.text.count("1 .dng, 2 .heic files cannot be read and will not be used; convert to") == 1
        with pytest.raises(ValueError, match=r"contains no images: 1 \.heic file cannot be read"):
            find_images([f"{folder}/x*"])


def test_unknown_extensions_are_counted_and_files_beside_images_are_not(tmp_path, caplog):
    unknown = ("a.jpg_large", "photo", "c.jpg.crdownload", "film.mov")
    beside = ("Thumbs.db", "desktop.ini", "labels.csv", "README", "notes.TXT", "Icon\r", "a.npy", "d.AAE", "d.mov")
    for name in (*unknown, *beside, "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link").symlink_to("nowhere")
    found = list_images(tmp_path)
    assert [os.path.basename(path) for path in found.files] == ["d.jpg"]
    assert {os.path.basename(path) for path in found.other} == set(unknown)
    find_images([tmp_path])
    assert "1 extensionless, 1 .crdownload, 1 .jpg_large, 1 .mov files cannot be read" in caplog.text


def test_an_image_under_another_extension_is_named(tmp_path, caplog):
    Image.new("RGB", (4, 4)).save(tmp_path / "IMG_1.HEIC", "jpeg")
    (tmp_path / "IMG_2.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    assert [path.name for path in find_images([tmp_path])] == ["a.png"]
    assert "1 .heic file cannot be read" in caplog.text and "2 .heic" not in caplog.text
    assert "IMG_1.HEIC is in the JPEG format: rename it" in caplog.text
    assert describe_other([str(tmp_path / "IMG_1.HEIC")]) == "IMG_1.HEIC is in the JPEG format: rename it to use it"
