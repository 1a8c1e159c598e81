"""What tests of HTML pages share."""

from html.parser import HTMLParser

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements and text of a page; raises where a tag is closed that is not open."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.in_rows = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.in_rows.append([])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"{tag} is closed and was not open"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.texts.append(data)
        if "tr" in self.open:
            self.in_rows[-1].append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def plots(self):
        return [one["aria-label"] for one in self.all("svg") if one.get("class") == "plot"]

    def row(self, start):
        """The texts of the one row that begins so."""
        (found,) = (row for row in self.in_rows if row[: len(start)] == start)
        return found

    @property
    def text(self):
        return " ".join(self.texts)
