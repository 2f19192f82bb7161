"""Web pages: every word that a reader sees, in order, with headings; menus and banners left out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opengte.search.parse.html import extract_page, parse_html

PROSE = (
    "This text stands in for a long description that goes on for a good while, with enough words "
    "in it to be taken for the main part of the page by anything that looks for one. It says what "
    "the program does with planks, how long it takes, and what to look out for. "
)


def page(markup: str):
    (found,) = parse_html(markup.encode())
    assert all(found.text[s.start :].startswith(s.title) for s in found.sections)
    return found


def text_of(markup: str) -> str:
    return page(markup).text


# --- what generators of manuals write -------------------------------------------------------------


def test_the_line_of_a_manual_page_that_says_what_it_does_is_kept():
    found = page(
        "<html><head><title>wiggle(1)</title></head><body class='manpage'><div id='header'>"
        "<h1>wiggle(1) Manual Page</h1><h2>NAME</h2><div class='sectionbody'>"
        "<p>wiggle - shake loose bolts out of a plank</p></div></div><div id='content'>"
        f"<div class='sect1'><h2>DESCRIPTION</h2><div class='paragraph'><p>{PROSE}</p></div>"
        "<div class='paragraph'><p>If the <code>-x</code> option is given, nails are shaken\n"
        "too.</p></div></div></div><div id='footer'>Last updated 2024</div></body></html>"
    )
    assert "wiggle - shake loose bolts out of a plank" in found.text
    assert "If the -x option is given, nails are shaken too." in found.text.splitlines()
    assert "Last updated" not in found.text
    assert [s.title for s in found.sections] == ["wiggle(1) Manual Page", "NAME", "DESCRIPTION"]
    assert found.title == "wiggle(1)"


def test_headings_inside_title_pages_of_docbook_are_sections():
    found = page(
        "<body><div class='navheader'><table><tr><th colspan='3'>Gadgets</th></tr><tr>"
        "<td><a accesskey='p' href='a.html'>Prev</a></td><td>Chapter 8</td>"
        "<td><a accesskey='n' href='b.html'>Next</a></td></tr></table><hr></div>"
        f"<div class='sect1'><div class='titlepage'><h2>8. Sizes</h2></div><p>{PROSE}</p>"
        "<div class='sect2'><div class='titlepage'><div><div><h3 class='title'><a id='x'></a>8.1. "
        "Arbitrary Precision Gadgets</h3></div></div></div><p>They hold up to 99 units.</p></div>"
        "</div><div class='navfooter'><a accesskey='p' href='a.html'>Prev</a></div></body>"
    )
    assert [s.title for s in found.sections] == ["8. Sizes", "8.1. Arbitrary Precision Gadgets"]
    assert found.text.startswith("8. Sizes\n\nThis text")
    assert found.text.endswith("8.1. Arbitrary Precision Gadgets\n\nThey hold up to 99 units.")


def test_marks_behind_headings_are_not_text():
    found = page(
        "<main><h1>Head<a class='headerlink' href='#head' title='Link'>¶</a></h1><p>one</p>"
        "<h2>Two <a class='hash-link' href='#two'>\u200b</a></h2><p>two</p></main>"
    )
    assert [s.title for s in found.sections] == ["Head", "Two"]
    assert found.text == "Head\n\none\n\nTwo\n\ntwo"


# --- layout ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One <b>bold</b>, <code>code</code><i>ital</i>ic.</p>", "One bold, codeitalic."),
        ("<p>a</p>tail<p>b</p>", "a\n\ntail\n\nb"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<p>one<br>two<br><br>three</p>", "one\ntwo\n\nthree"),
        ("<p>Donau&shy;dampf sup<wbr>er&nbsp;word</p>", "Donaudampf super word"),
        ("<p>你好\n世界 and\nmore</p>", "你好世界 and more"),
        ("<p>He said <q>no</q>.</p>", "He said “no”."),
        ("<p><ruby>漢<rp>[</rp><rt>kan</rt><rp>]</rp></ruby></p>", "漢(kan)"),
        ("<ul><li>one</li><li>two <b>x</b></li></ul><p>end</p>", "- one\n- two x\n\nend"),
        ("<ul><li><p>one</p></li><li><p>two</p></li></ul>", "- one\n- two"),
        ("<ol><li>a<ul><li>b</li></ul></li><li>c</li></ol>", "1. a\n  - b\n2. c"),
        (
            "<ol start=4><li>a</li><li><p>b</p><p>c</p></li><li>d</li></ol>",
            "4. a\n5. b\n\nc\n\n6. d",
        ),
        (
            "<dl><dt>-x</dt><dt>-y</dt><dd><p>Shake.</p></dd><dt>-z</dt><dd>No.</dd></dl>",
            "-x\n-y\nShake.\n\n-z\nNo.",
        ),
        (
            "<table><caption>T</caption><tr><th>a</th><th>b</th></tr>"
            "<tr><td><p>1</p><p>2</p></td><td><a href=x>link</a></td></tr>"
            "<tr><td></td><td>z</td></tr><tr><td>y</td><td></td></tr></table>",
            "T\na | b\n1 2 | link\n| z\ny",
        ),
        (
            "<table><tr><td>side</td><td><h2>Head</h2><pre>  a\n b</pre></td></tr></table>",
            "side\n\nHead\n\n  a\n b",
        ),
        ("<p>x:</p><pre>\n  if (a)\n\n    b;\n</pre><p>y</p>", "x:\n\n  if (a)\n\n    b;\n\ny"),
        ("<pre><span>a</span> <span>b</span><br>c</pre>", "a b\nc"),
        ("<details><summary>More</summary><p>Hidden text</p></details>", "More\n\nHidden text"),
        ("<figure><img src=a.png alt='A cat'><figcaption>Cap</figcaption></figure>", "A cat\nCap"),
        ("<figure><img alt='Cap'><figcaption>Cap</figcaption></figure>", "Cap"),
        ("<p>see <img alt=''><img alt='a.png'><img alt='icon'>here</p>", "see here"),
        ("<p><a href=x>One</a><a href=y>Two</a> <a href=z>method</a>s</p>", "One Two methods"),
        ("<script>var x = '<p>no</p>';</script><style>p {}</style><p>yes</p>", "yes"),
        ("<p>a<!-- no --> b<?php no ?> c</p>", "a b c"),
        ("<p>a</p><div hidden>no</div><div style='display: none'>no</div>", "a"),
        ("<div role=tabpanel hidden>second tab</div>", "second tab"),
        ("<pre>x</pre><button>Copy</button><button>How do I pay?</button>", "x\n\nHow do I pay?"),
        (
            "<p>so <math><mi>x</mi><annotation encoding='application/x-tex'>x^2</annotation></math>"
            " <span class='katex-html'>x2</span> is</p>",
            "so x^2 is",
        ),
        ("<svg><title>no</title><text>Box</text><text>Arrow</text></svg>", "Box Arrow"),
        ("plain text & no markup", "plain text & no markup"),
        ("", ""),
        ("   ", ""),
    ],
)
def test_layout(markup, text):
    assert extract_page(markup).text == text
    assert text_of(markup) == text


def test_sections_of_headings_with_lines_and_markup():
    found = page("<p>x</p><h2>A <i>long</i><br>head</h2><p>y</p><h3></h3><div><h4>B</h4></div>")
    assert [s.title for s in found.sections] == ["A long head", "B"]


def test_title_and_language():
    found = page("<html lang=de><head><title> T &amp;\n U </title></head><p>x</p></html>")
    assert (found.title, found.metadata["language"]) == ("T & U", "de")
    assert page("<h1>Head</h1><p>x</p>").title == "Head"


# --- boilerplate ----------------------------------------------------------------------------------

LINKS = "<ul>" + "".join(f"<li><a href='/{n}'>Menu entry {n}</a></li>" for n in range(9)) + "</ul>"
BODY = f"<h1>Head</h1><p>{PROSE}</p><p>Second.</p>"


@pytest.mark.parametrize(
    "around",
    [
        f"<nav>{LINKS}</nav>@",
        f"<header><div>{LINKS}</div></header><main>@</main>",
        f"<div id='sidebar'>{LINKS}</div><div>@</div>",
        f"<table><tr><td>{LINKS}</td><td>@</td></tr></table>",
        f"@<footer><p>Imprint</p>{LINKS}</footer>",
        "@<div class='page-footer'>Copyright 2024 by nobody</div>",
        f"<div>@</div><aside class='toc'><ul>{'<li><a href=#a>A</a></li>' * 5}</ul></aside>",
        "<a href='#main'>Skip to content</a>@",
        "<div id='cookie-banner'>We use cookies. <button>Accept all</button></div>@",
        "<div role='dialog'>Cookies help us <a href='/privacy'>More</a></div>@",
        "<p>Next: <a href=b rel=next>Shell Features</a>, <a href=c rel=up>Up</a></p><div>@</div>",
        "@<p class='last-updated'>Last updated on Monday</p>",
    ],
)
def test_what_is_plainly_not_content_is_left_out(around):
    assert text_of(around.replace("@", BODY)) == text_of(BODY)


@pytest.mark.parametrize(
    "kept",
    [
        "<p>Words before the heading.</p>",
        f"<div class='toc'>{LINKS}</div>",  # the contents of a chapter: other pages
        f"<p>See {LINKS}</p>",
        "<div id='navigation'><h2>Navigation</h2><p>How to steer a ship.</p></div>",
        "<div id='vary_on_cookie'><a href='x'>docs</a> a view that varies on the cookie</div>",
        "<section id='footer'><h2>Footer</h2><p>Feet have lower parts.</p></section>",
        "<aside>A remark without links.</aside>",
        "<article><header>By Ann</header><footer>Ann lives in Kent.</footer></article>",
        "<blockquote><p>Words.</p><footer>Somebody</footer></blockquote>",
        "<div class='sidebar'>A box of prose beside the text, as manuals have them.</div>",
        "<div class='menu'>Soup of the day, then fish, then a cake with plums.</div>",
    ],
)
def test_what_may_be_content_is_kept(kept):
    for markup in (f"<main>{kept}{BODY}</main>", f"<div>{BODY}{kept}</div>"):
        assert set(extract_page(markup).text.split()) == set(text_of(markup).split())


def test_a_page_that_is_all_menu_is_read_whole():
    assert "Menu entry 3" in text_of(f"<nav>{LINKS}</nav>")
    assert "Menu entry 3" in text_of(f"<body><h1>Site</h1>{LINKS}</body>")


# --- every word, in order -------------------------------------------------------------------------

BLOCK = st.sampled_from("div p section ul ol li dl dt dd table tr td th pre details h2 h3".split())
INLINE = st.sampled_from("b i a span code em sup label font custom-tag".split())
TREE = st.recursive(
    st.just("@"),
    lambda inner: st.tuples(BLOCK | INLINE, st.lists(inner | st.just("@"), min_size=1, max_size=4)),
    max_leaves=25,
)


def written(tree, count: list[int]) -> str:
    if tree == "@":
        count[0] += 1
        return f" w{count[0]}x "
    tag, inner = tree
    return f"<{tag}>{''.join(written(one, count) for one in inner)}</{tag}>"


@settings(max_examples=300, deadline=None)
@given(st.lists(TREE, min_size=1, max_size=5))
def test_every_word_of_any_tree_is_in_the_text_once_and_in_order(trees):
    count = [0]
    markup = "".join(written(tree, count) for tree in trees)
    found = extract_page(f"<body>{markup}</body>")
    words = [word for word in found.text.replace("|", " ").split() if word.startswith("w")]
    # a parser of HTML moves text that stands in a table outside its cells
    expected = [f"w{n}x" for n in range(1, count[0] + 1)]
    assert sorted(words) == sorted(expected)
    assert "<table>" in markup or words == expected
    assert all(found.text[s.start :].startswith(s.title) for s in found.sections)


def test_a_page_nested_deeply_is_read():
    markup = "<div>" * 3000 + "deep" + "</div>" * 3000 + "<table><tr><td>" * 500 + "deeper"
    assert text_of(markup).split() == ["deep", "deeper"]
