"""Text of others on a terminal: shown as it is, but for what would steer the terminal; and warnings
as lines, one of a kind."""
import contextlib
import re
import sys
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TextIO

JOINERS = '\u200c\u200d'  # part of Persian words and of emoji, and without an effect elsewhere


def shown(text: object) -> str:
    """A text on one line: control characters, line ends, marks that turn the direction of writing
    and other invisible ones as escapes (`\\n`, `\\x1b`, `\\u202e`)."""
    return ''.join(c if _harmless(c) else c.encode('unicode_escape').decode() for c in str(text))


def show(text: str, stream: TextIO | None = None) -> None:
    """Print, also what the terminal's encoding lacks: the name of a file may be any bytes."""
    stream = stream or sys.stdout
    encoding = stream.encoding or 'utf-8'
    print(text.encode(encoding, 'backslashreplace').decode(encoding), file=stream, flush=True)


def warned(line: str) -> None:
    """A warning for the user of a command: one line on stderr."""
    show(f'warning: {shown(line)}', sys.stderr)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Within it Python's warnings are lines on stderr, without the place in the code: the first of
    each kind when it comes, and at the end how many more there were. Of a kind are those that
    differ in numbers, or in the file that they begin with."""
    kinds: Counter = Counter()
    first: dict = {}

    def line(message, category, *_, **__):
        text = str(message)
        kind = category, re.sub(r'^.*?: |[0-9]+', '', text)
        kinds[kind] += 1
        if kinds[kind] == 1:
            first[kind] = text
            warned(text)

    with warnings.catch_warnings():
        warnings.showwarning = line
        try:
            yield
        finally:
            for kind, count in kinds.items():
                if count > 1:
                    warned(f'{count - 1} more of the kind: {first[kind]}')


def _harmless(c):
    return unicodedata.category(c) not in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') or c in JOINERS
