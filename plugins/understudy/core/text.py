"""Counts in words, and makes text from outside safe for one line of a screen, a page or a log.

DICOM attributes, AE titles and answers of peers can contain any character. A line end forges a line of a log,
an escape sequence moves the cursor, and a bidirectional override reverses the rest of a line.
"""

_SHOWN = frozenset(
    # Spaces, among them the one between a family name and a given name in Japanese.
    "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
    # Joiners, which names in Persian, Hindi and other scripts need; they move nothing.
    "\u200c\u200d"
)

_BETWEEN = "\n\r\t"
"""White space that separates the parts of a JSON document and never occurs raw in its strings."""


def counted(number: int, one: str, many: str = "") -> str:
    """Return the number with its noun, and with what follows if that depends on the number, too.

    `many` is `one` with an s if it is not given.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def visible(text: str) -> str:
    r"""Return the text with every character that is unsafe to show written as an escape: \x1b, \u202e."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(sign if _shown(sign) else _escaped(sign) for sign in text)


def _shown(sign: str) -> bool:
    return sign.isprintable() or sign in _SHOWN


def _escaped(sign: str) -> str:
    number = ord(sign)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def visible_json(text: str) -> str:
    r"""Return the same JSON document with \u escapes for characters that a terminal would interpret.

    JSON itself escapes control characters below U+0020 inside strings, and has line ends only outside them.
    """
    return "".join(sign if sign in _BETWEEN or _shown(sign) else _json(sign) for sign in text)


def _json(sign: str) -> str:
    units = sign.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
