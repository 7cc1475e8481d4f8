"""The documents' prose is wrapped, in short paragraphs, without words that a newcomer has to translate."""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted(page for folder in (".", "docs", "ansible") for page in (REPOSITORY / folder).glob("*.md"))
WIDTH = 100
PARAGRAPH = 6
TERMS = 15
BANNED = re.compile(r"\b(mend(?:s|ed|ing)?|else|in peace|despairs?|noise|vague(?:ly)?|anew)\b", re.IGNORECASE)


def prose(text: str) -> Iterator[str]:
    """Yield the lines without code blocks and without the parts that `make docs` writes."""
    until = ""
    for line in text.splitlines():
        stripped = line.strip()
        if until:
            until = "" if stripped == until else until
            yield ""
        elif stripped.startswith("```"):
            until = "```"
        elif generated := re.match(r"<!-- begin (\w+): made by `make docs`", stripped):
            until = f"<!-- end {generated[1]} -->"
        else:
            yield line


def too_wide(text: str) -> list[str]:
    """Return the lines that are too wide, tables excepted; neither a link's address nor a picture counts."""
    lines = [line for line in prose(text) if not line.startswith("|")]
    return [line for line in lines if len(re.sub(r"!\[.*\]\(.*\)|(?<=\])\([^)]*\)", "", line)) > WIDTH]


def too_long(text: str) -> list[str]:
    """Return the first line of each paragraph or item of a list that is too long."""
    found = []
    for is_prose, lines in groupby(prose(text), lambda line: bool(line) and line[0] not in "|#<"):
        items = re.split(r"\n(?= *(?:[-*]|\d+\.) )", "\n".join(lines)) if is_prose else []
        found += [item.partition("\n")[0] for item in items if item.count("\n") >= PARAGRAPH]
    return found


def banned(text: str) -> list[str]:
    """Return the banned words of the text, those in `code` excepted."""
    words = " ".join(" ".join(prose(text)).split())
    return BANNED.findall(re.sub(r"`[^`]*`", "", words))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_prose_is_wrapped_in_short_paragraphs_without_banned_words(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert (too_wide(text), too_long(text), banned(text)) == ([], [], [])


def test_glossary_has_few_terms() -> None:
    rows = re.findall(
        r"^\| (?!word|---)", (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert 0 < len(rows) <= TERMS


LINE = "An instance waits. " * 6


@pytest.mark.parametrize("text", [LINE, f"- {LINE}", f"{LINE} [link](address)", f"{'x' * 97} [a](b)"])
def test_wide_line_is_found(text: str) -> None:
    assert too_wide(f"# Page\n\n{text}\n") == [text]


@pytest.mark.parametrize(
    "text", [f"| {LINE} |", f"```\n{LINE}\n```", f"[link]({'a' * 100})", f"![{LINE}](a.svg)"]
)
def test_wide_table_code_and_link_are_allowed(text: str) -> None:
    assert too_wide(f"# Page\n\n{text}\n") == []


def test_long_paragraph_is_found_and_a_list_of_short_items_is_not() -> None:
    seven = [f"Line {number}" for number in range(7)]
    assert too_long("\n".join(seven)) == ["Line 0"]
    assert too_long("1. First\n" + "\n".join(f"   {line}" for line in seven)) == ["1. First"]
    assert too_long("\n".join(f"- {line}" for line in seven)) == []


@pytest.mark.parametrize("word", ["Else", "else", "mended", "in\npeace", "despair", "noise", "vague", "anew"])
def test_banned_word_is_found(word: str) -> None:
    assert banned(f"It is {word}.") == [word.replace("\n", " ")]


def test_banned_word_in_code_and_in_generated_parts_is_allowed() -> None:
    generated = "<!-- begin keys: made by `make docs` from x.py -->\nanew\n<!-- end keys -->"
    assert banned(f"A `despair` event.\n\n```\nelse\n```\n\n{generated}\n") == []
    assert banned(f"{generated}\nanew\n") == ["anew"]
