#!/usr/bin/env python3
"""Checks that every citation in the repository leads somewhere. `make check` runs it; it needs Python alone.

    citations.py              checks the files of the repository
    citations.py --self-test  plants a bad citation of each kind and checks that it is found

It looks at three kinds of citation:

- `docs/….md` and `docs/….md#heading`, anywhere in a text file;
- relative links and pictures in Markdown, with or without a heading;
- paths of this repository in backticks, in Markdown and in comments of Rust.

It also rejects names of documents that are not in the repository. It does not look at links to other sites.
"""
import os
import pathlib
import re
import sys
import tempfile

TOP = "src engine protocol metrics cloud tests scripts docs deploy schemas vectors examples fuzz benches systemd".split()
# What a release said stays, also about files that are gone.
HISTORY = {"CHANGELOG.md"}
# The citations that the self-test plants.
PLANTED = "scripts/citations.py"
DOCS = re.compile(r"(?<![\w./-])docs/[\w./-]+\.md(?:#[\w-]+)?")
LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"")
PATH = re.compile(r"`((?:" + "|".join(TOP) + r")/[\w./-]+)`")
# Written so that a search for the names finds nothing here.
ABSENT = [
    (re.compile(r"[Ss]ections?\s[34](?!\d)"), "a section of a document that is not in the repository"),
    (re.compile(r"(?<!docs/)\bdesign\.md|\bpit[f]alls\b|\bverification\.md|\.\./share[d]"), "a document that is not in the repository"),
    (re.compile(r"\(3\.[1-7]\)|\bdesign [34]\.\d"), "a section of a document that is not in the repository"),
]
# Folders that hold nothing of the repository.
BUILT = {".git", "target", "__pycache__", "node_modules"}
BINARY = {".png", ".mp4", ".h264", ".gz", ".zst", ".ico", ".der", ".jpg"}


def headings(text):
    """The anchors that GitHub gives to the headings of a Markdown text."""
    found, code = {}, False
    for line in text.splitlines():
        if line.startswith("```"):
            code = not code
        match = re.match(r"#{1,6} +(.*?) *#*$", line)
        if match and not code:
            name = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1]).lower()
            slug = re.sub(r"[^\w\- ]", "", name).replace(" ", "-")
            count = found.get(slug)
            found[slug] = 0 if count is None else count + 1
            if count is not None:
                found[f"{slug}-{count + 1}"] = 0
    return set(found)


class Tree:
    """The tracked files of a checkout."""

    def __init__(self, root, files):
        self.root = root
        self.files = files
        self.folders = {parent.as_posix() for file in files for parent in pathlib.PurePosixPath(file).parents}
        self.anchors = {}

    def fault(self, target, anchor):
        """Why this target, relative to the root, leads nowhere; None if it leads somewhere."""
        target = target.rstrip("/")
        if target not in self.files and target not in self.folders:
            return f"there is no {target}"
        if anchor and target.endswith(".md"):
            if target not in self.anchors:
                self.anchors[target] = headings((self.root / target).read_text(encoding="utf-8"))
            if anchor not in self.anchors[target]:
                return f"{target} has no heading #{anchor}"
        return None

    def check(self, file):
        """The faults of one file, as (line, what)."""
        if file == PLANTED or pathlib.PurePosixPath(file).suffix in BINARY or file.startswith("fuzz/corpus/"):
            return
        try:
            text = (self.root / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return
        markdown, rust, code = file.endswith(".md"), file.endswith(".rs"), False
        for number, line in enumerate(text.splitlines(), 1):
            if file not in HISTORY:
                for pattern, what in ABSENT:
                    if match := pattern.search(line):
                        yield number, f"{match[0]!r} names {what}"
            for match in DOCS.finditer(line):
                target, _, anchor = match[0].partition("#")
                if why := self.fault(target, anchor):
                    yield number, why
            if markdown and line.startswith("```"):
                code = not code
            if markdown and not code:
                for match in LINK.finditer(line):
                    link = match[1] or match[2]
                    if not re.match(r"[a-z]+:|//", link):
                        yield from ((number, why) for why in [self.link(file, link)] if why)
            if (markdown and file not in HISTORY) or (rust and line.lstrip().startswith("//")):
                for match in PATH.finditer(line):
                    if not match[1].startswith("docs/") and (why := self.path(file, match[1])):
                        yield number, why

    def path(self, file, path):
        """Paths count from the root, or from a folder above the file: a crate's own, say."""
        above = [parent / path for parent in pathlib.PurePosixPath(file).parents]
        found = any(self.fault(place.as_posix(), "") is None for place in above)
        return None if found else self.fault(path, "")

    def link(self, file, link):
        path, _, anchor = link.partition("#")
        target = file
        if path:
            steps = list(pathlib.PurePosixPath(file).parent.parts)
            for step in path.split("/"):
                if step == ".." and steps:
                    steps.pop()
                elif step not in ("", "."):
                    steps.append(step)
            target = "/".join(steps)
        return self.fault(target, anchor)


def faults(root):
    files = set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in BUILT]
        files |= {(pathlib.Path(folder) / name).relative_to(root).as_posix() for name in names}
    tree = Tree(pathlib.Path(root), files)
    return [f"{file}:{line}: {what}" for file in sorted(files) for line, what in tree.check(file)]


def self_test():
    good = {
        "docs/a.md": "# A page\n\n## Get & answer\n## Twice\n## Twice\n\n[b](b.md#b) [here](#twice-1) [up](../src)\n",
        "docs/b.md": "# B\n",
        "cloud/tests/y.rs": "",
        "cloud/src/y.rs": "//! See `tests/y.rs`.\n",
        "src/lib.rs": "// `docs/a.md#get--answer`, `src/lib.rs`, RFC 9110 section 10.2.3, section " "33.\n",
    }
    # Each is put into the tree by itself, and must be the one fault.
    planted = {
        "a page": ("src/x.rs", "// docs/c.md\n"),
        "a heading": ("src/x.rs", "// `docs/a.md#get-and-answer`\n"),
        "a link": ("docs/x.md", "[c](c.md)\n"),
        "a link's heading": ("docs/x.md", "[b](b.md#c)\n"),
        "a picture": ("docs/x.md", '<img src="x.png">\n'),
        "a path in Markdown": ("docs/x.md", "`src/gone.rs`\n"),
        "a path in a comment": ("src/x.rs", "/// See `src/gone`.\n"),
        "a section": ("src/x.rs", "// section " + "3.4\n"),
        "a short section": ("src/x.rs", "// a thing (3." + "4)\n"),
        "an absent document": ("README.md", "see pit" + "falls\n"),
    }
    for name, (file, text) in [("nothing", ("docs/x.md", "fine\n")), *planted.items()]:
        with tempfile.TemporaryDirectory() as folder:
            for path, content in {**good, file: text}.items():
                target = pathlib.Path(folder) / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(content, encoding="utf-8")
            found = faults(folder)
            expected = 0 if name == "nothing" else 1
            if len(found) != expected or (expected and not found[0].startswith(f"{file}:1: ")):
                sys.exit(f"citations.py: the self-test planted {name} and found {found}")
    print(f"citations.py: the self-test found all {len(planted)} planted citations")


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        self_test()
    elif sys.argv[1:]:
        sys.exit(__doc__)
    else:
        found = faults(pathlib.Path(__file__).resolve().parent.parent)
        print(*found, sep="\n", end="\n" if found else "")
        sys.exit(f"citations.py: {len(found)} citations lead nowhere" if found else 0)
