from rexnet.serve.markup import Markup, join, tag


def test_text_is_escaped_and_markup_is_not():
    nasty = "<script>alert('1')</script> & \"x\""
    assert "<script" not in tag("p", nasty) and "&lt;script&gt;" in tag("p", nasty)
    assert tag("p", tag("b", "x"), " < y") == "<p><b>x</b> &lt; y</p>"
    assert tag("p", title="a\"b'c<") == '<p title="a&quot;b&#x27;c&lt;"></p>'
    assert isinstance(tag("p"), Markup) and isinstance(join("a"), Markup)


def test_attributes():
    assert tag("td", 3, class_="x", aria_label="y", hidden=True, title=None, lang=False) == (
        '<td class="x" aria-label="y" hidden>3</td>'
    )
    assert tag("meta", name="n", content="c") == '<meta name="n" content="c">'
    assert tag("img", src="data:,") == '<img src="data:,">'


def test_names_outside_unicode_and_line_breaks_become_writable_text():
    assert join("caf\udce9\n狐").encode("utf-8") == r"caf\udce9\n狐".encode()
    assert join("a", None, 1) == "a1"
