"""JSON files of results and galleries, read with a word on what is wrong with them."""
import json

from .files import read_text


def read_json(path, remedy='Make the file again.'):
    """The JSON object in a file, a dict; ValueError with file and line, and `remedy`, if it has
    none."""
    try:
        content = json.loads(read_text(path, 'line'))
    except json.JSONDecodeError as error:
        raise ValueError(f'{path}, line {error.lineno}: not JSON ({error.msg}). {remedy}') from None
    except RecursionError:
        raise ValueError(f'{path}: lists within lists without end. {remedy}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected an object {{…}}, found {content!r:.60}. {remedy}')
    return content
