"""Reads an HTML page with Python's own parser and prints as JSON what it holds. A tag that is not closed is an error."""

import html.parser
import json
import sys
import xml.etree.ElementTree

VOID = {"meta", "link", "br", "img", "input", "hr", "base", "col"}
FIGURES = {"rect", "line", "text", "title", "desc"}


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.attributes, self.sections = [], {}, [], []
        self.title, self.declared = "", []
        self.words, self.value = None, None

    def handle_decl(self, decl):
        self.declared.append(decl)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += [[tag, *attr] for attr in attrs]
        attrs = dict(attrs)
        if tag not in VOID:
            self.open.append((tag, attrs))
        if tag == "section":
            self.sections.append({"title": "", "texts": [], "tables": [], "plots": []})
        elif tag == "table":
            self.sections[-1]["tables"].append({"caption": "", "scopes": [], "rows": []})
        elif tag == "tr":
            self.sections[-1]["tables"][-1]["rows"].append([])
        elif tag == "data":
            self.value = int(attrs["value"])
        elif tag == "svg":
            self.sections[-1]["plots"].append({"title": "", "description": "", "texts": [], "bars": {}})
        elif tag == "rect":
            bars = self.sections[-1]["plots"][-1]["bars"]
            bars[attrs["class"]] = bars.get(attrs["class"], 0) + 1
        if tag in ("th", "td", "p", "h2", "caption", "title", "desc", "text"):
            self.words = ""

    handle_startendtag = lambda self, tag, attrs: (self.handle_starttag(tag, attrs), self.handle_endtag(tag))

    def handle_data(self, data):
        if self.words is not None:
            self.words += data

    def handle_endtag(self, tag):
        opened, attrs = self.open.pop()
        assert opened == tag, f"<{opened}> is closed by </{tag}> at {self.getpos()}"
        words = self.words
        in_plot = any(name == "svg" for name, _ in self.open)
        if tag in ("th", "td"):
            table = self.sections[-1]["tables"][-1]
            if tag == "th":
                table["scopes"].append(attrs.get("scope"))
            table["rows"][-1].append([words, self.value])
            self.value = None
        elif in_plot and tag in ("title", "desc", "text"):
            plot = self.sections[-1]["plots"][-1]
            if tag == "text":
                plot["texts"].append(words)
            else:
                plot["title" if tag == "title" else "description"] = words
        elif tag == "title":
            self.title = words
        elif tag == "h2":
            self.sections[-1]["title"] = words
        elif tag == "p":
            self.sections[-1]["texts"].append(words)
        elif tag == "caption":
            self.sections[-1]["tables"][-1]["caption"] = words
        if tag in ("th", "td", "p", "h2", "caption", "title", "desc", "text"):
            self.words = None


text = sys.stdin.read()
page = Page()
page.feed(text)
page.close()
assert page.open == [], page.open
# Inline drawings are XML beside that.
for svg in text.split("<svg ")[1:]:
    xml.etree.ElementTree.fromstring("<svg " + svg.split("</svg>")[0] + "</svg>")
print(json.dumps({name: getattr(page, name) for name in ("title", "declared", "tags", "attributes", "sections")}))
