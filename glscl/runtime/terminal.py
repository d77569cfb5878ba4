"""Text of others on a terminal: shown as it is, but for what would steer the terminal."""
import unicodedata

JOINERS = '\u200c\u200d'  # part of Persian words and of emoji, and without an effect elsewhere


def shown(text):
    """A text on one line: control characters, line ends, marks that turn the direction of writing
    and other invisible ones as escapes (`\\n`, `\\x1b`, `\\u202e`)."""
    return ''.join(c if _harmless(c) else c.encode('unicode_escape').decode() for c in str(text))


def _harmless(c):
    return unicodedata.category(c) not in ('Cc', 'Cf', 'Cs', 'Zl', 'Zp') or c in JOINERS
