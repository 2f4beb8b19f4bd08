"""A report as a browser parses it: its tags and its JSON blocks."""

import json
from html.parser import HTMLParser


class Page(HTMLParser):
    """A report as parsed by a browser."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text("utf-8")
        self.tags, self._block, self._blocks = [], None, {}
        self.feed(self.text)
        self.close()
        self.table = json.loads(self._blocks["table"])
        self.rows = {row["exposure"]: row for row in self.table["rows"]}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._block = dict(attributes).get("id") if tag == "script" else None

    def handle_data(self, data):
        if self._block:
            self._blocks[self._block] = self._blocks.get(self._block, "") + data

    def handle_endtag(self, tag):
        self._block = None

    def detail(self, exposure):
        return json.loads(self._blocks[f"exposure-{self.rows[exposure]['id']}"])

    def images(self, exposure):
        return json.loads(self._blocks[f"images-{self.rows[exposure]['id']}"])

    def quicklooks(self, number):
        return json.loads(self._blocks[f"set-{number}"])["quicklooks"]
