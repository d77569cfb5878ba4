"""JSON files of results and galleries, read with a word on what is wrong with them."""
import json
import os

from .files import read_text


def read_json(path: str | os.PathLike, remedy: str = 'Make the file again.') -> dict:
    """The JSON object in a file, a dict; ValueError with file and line, and `remedy`, if it has
    none."""
    text = read_text(path, 'line')
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        line, what = getattr(error, 'lineno', 1), getattr(error, 'msg', error)
        raise ValueError(f'{path}, line {line}: broken JSON ({what}). {remedy}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected an object {{…}}, found {content!r:.60}. {remedy}')
    return content
