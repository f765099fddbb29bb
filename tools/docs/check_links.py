#!/usr/bin/env python3
"""Checks that every link within a built book leads to a file and an anchor of it.

Usage: check_links.py FOLDER. Prints each broken link; ends with status 1 when there is one.
"""

import html.parser
import pathlib
import sys
import urllib.parse

# Made of all pages, or for no page: their links are relative to another place.
SPECIAL = {"print.html", "404.html", "toc.html"}


class Page(html.parser.HTMLParser):
    """Links and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id" and value:
                self.anchors.add(value)
            if name in ("href", "src") and value:
                self.links.append(value)


def broken(path: pathlib.Path, link: str, pages: dict[pathlib.Path, Page]) -> str | None:
    """What is wrong with a link of the page at `path`."""
    parts = urllib.parse.urlparse(link)
    if parts.scheme or parts.netloc:
        return None
    target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
    if target.is_dir():
        target /= "index.html"
    if not target.exists():
        return "no such file"
    if parts.fragment and target in pages and parts.fragment not in pages[target].anchors:
        return "no such anchor"
    return None


def main() -> int:
    folder = pathlib.Path(sys.argv[1]).resolve()
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html")}
    count = bad = 0
    for path, page in pages.items():
        if path.name in SPECIAL:
            continue
        for link in page.links:
            count += 1
            what = broken(path, link, pages)
            if what:
                bad += 1
                print(f"{path.relative_to(folder)}: {link}: {what}")
    print(f"{len(pages)} pages, {count} links, {bad} broken")
    return 1 if bad or count == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
