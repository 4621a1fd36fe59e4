"""HTML pages, read and checked, and names that try to be more than names."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style><script>x",
    "</svg></div><svg onload=x>",
    "' onmouseover='x'",
    "<!-- x -->",
    "<metadata>x</metadata>",
    "]]>",
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{# x #}",
    "&amp;&#60;b&#62;",
    'id="x"',
    "url(#x)",
    "$x$",
    "a\x00\x1b[31m\nb",
    "\u202eabc",
    "\ud800",
)
VOID = {"meta", "br", "img", "link", "hr", "input"}


class Page(HTMLParser):
    """Reads a page and checks that every element is closed in its order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.tables, self.titles, self.figures = [], [], [], [], [], 0
        self.tags, self.attributes, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        self.tags.append(tag)
        self.attributes += named
        self.ids += [named["id"]] if "id" in named else []
        self.links += [value for name, value in attributes if name in {"src", "href", "xlink:href", "action", "data"}]
        self.figures += tag == "figure"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in {"td", "th"}:
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data):
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        if "h2" in self.open:
            self.titles.append(data)
