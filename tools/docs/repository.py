#!/usr/bin/env python3
"""Preprocessor of mdBook: documents outside of docs/ become chapters, links to sources lead out.

mdBook copies docs/ only, so that a link from there to SAFETY.md or to a source would lead nowhere.
Markdown files outside that a chapter links to are appended as chapters under repository/; any other
target becomes an address in the repository (output.html.git-repository-url). Reads the pair of
context and book as JSON on standard input, writes the book to standard output.
"""

import json
import os
import pathlib
import posixpath
import re
import sys

FOLDER = "repository"
# Not ")": a target with one would be cut, and none of our files has one.
LINK = re.compile(r"\]\(([^)\s]+)\)")
EXTERNAL = ("http://", "https://", "mailto:", "#")


class Links:
    """Rewrites the links of chapters and collects the documents that they lead to."""

    def __init__(self, root: pathlib.Path, source: str, repository: str) -> None:
        self.root, self.source, self.repository = root, source, repository
        self.documents: list[str] = []

    def place(self, path: str) -> str:
        """Where a file of the repository is in the book, from the book's root; or its address."""
        if path.startswith(self.source + "/"):
            return path[len(self.source) + 1 :]
        if path.endswith(".md") and (self.root / path).is_file():
            if path not in self.documents:
                self.documents.append(path)
            return f"{FOLDER}/{path}"
        kind = "tree" if (self.root / path).is_dir() else "blob"
        return f"{self.repository}/{kind}/main/{path}"

    def rewrite(self, text: str, path: str, at: str) -> str:
        """The text of a file of the repository (`path`), with links that fit its place `at`."""

        def target(match: re.Match[str]) -> str:
            link = match[1]
            if link.startswith(EXTERNAL):
                return match[0]
            link, _, anchor = link.partition("#")
            found = self.place(posixpath.normpath(posixpath.join(posixpath.dirname(path), link)))
            if not found.startswith("https://"):
                found = posixpath.relpath(found, posixpath.dirname(at) or ".")
            return f"]({found}{'#' + anchor if anchor else ''})"

        # Code keeps its text: fenced blocks and spans.
        parts = re.split(r"(^```.*?^```|`[^`\n]*`)", text, flags=re.MULTILINE | re.DOTALL)
        return "".join(
            part if part.startswith("`") else LINK.sub(target, part) for part in parts
        )


def chapters(items: list) -> list[dict]:
    """All chapters with a file, the nested ones too."""
    found = []
    for item in items:
        chapter = item.get("Chapter") if isinstance(item, dict) else None
        if chapter:
            found += [chapter] if chapter["path"] else []
            found += chapters(chapter["sub_items"])
    return found


def title(text: str, path: str) -> str:
    """The first heading."""
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1].replace("`", "") if heading else path


def process(context: dict, book: dict) -> dict:
    """Adds the documents and rewrites the links."""
    config = context["config"]
    root, source = pathlib.Path(context["root"]), config["book"].get("src", "src")
    links = Links(root, source, config["output"]["html"]["git-repository-url"])
    items = book["items" if "items" in book else "sections"]
    for chapter in chapters(items):
        path = chapter["path"]
        chapter["content"] = links.rewrite(chapter["content"], f"{source}/{path}", path)
    if links.documents:
        items.append({"PartTitle": "In the repository"})
    # The documents that a document links to are appended while this loop runs.
    for document in links.documents:
        text = (root / document).read_text(encoding="utf-8")
        at = f"{FOLDER}/{document}"
        items.append(
            {
                "Chapter": {
                    "name": title(text, document),
                    "content": links.rewrite(text, document, at),
                    "number": None,
                    "sub_items": [],
                    "path": at,
                    "source_path": os.path.relpath(root / document, root / source),
                    "parent_names": [],
                }
            }
        )
    return book


def main() -> None:
    if sys.argv[1:2] == ["supports"]:
        sys.exit(0 if sys.argv[2:] == ["html"] else 1)
    context, book = json.load(sys.stdin)
    json.dump(process(context, book), sys.stdout)


if __name__ == "__main__":
    main()
