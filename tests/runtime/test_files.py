"""Settings are read from YAML of plain values alone, and bad ones are told by file and line."""
import re

import pytest

from glscl.runtime.files import read_text, read_yaml


def write(tmp_path, content):
    path = tmp_path / 'mine.yaml'
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_plain_values(tmp_path):
    path = write(tmp_path, '# a comment\nclip: small\npretrained: null\nsizes: [1, 2.5, true]\n'
                           'base: &base {a: 1, b: 2}\nother:\n  <<: *base\n  b: 3\n')
    assert read_yaml(path) == dict(clip='small', pretrained=None, sizes=[1, 2.5, True],
                                   base=dict(a=1, b=2), other=dict(a=1, b=3))
    for nothing in ('', '# a comment\n', '---\n'):
        assert read_yaml(write(tmp_path, nothing)) == {}
    assert read_yaml(write(tmp_path, b'\xef\xbb\xbfa: \xc3\xa9\r\nb: 2\r\n')) == dict(a='é', b=2)


def test_numbers_with_colons_stay_text(tmp_path):
    path = write(tmp_path, 'time: 1:30\nlong: 1:02:03.5\nless: -1:30\nint: 130\nfloat: 1.0e-4\n')
    assert read_yaml(path) == {'time': '1:30', 'long': '1:02:03.5', 'less': '-1:30',
                               'int': 130, 'float': 1e-4}


@pytest.mark.parametrize('content, line, problem', [
    ('- a\n- b\n', 1, "found ['a', 'b']"),
    ('just text\n', 1, "found 'just text'"),
    ('a: 1\nb: 2\na: 3\n', 3, "the key 'a' is there twice"),
    ('a:\n  b: 1\n  b: 2\n', 3, "the key 'b' is there twice"),
    ('a: 1\n---\nb: 2\n', 2, 'but found another document'),
    ('a: 1\nb:\n\tc: 2\n', 3, "found character '\\t' that cannot start any token"),
    ('a: 1\nb: [1, 2\n', 3, "expected ',' or ']', but got '<stream end>'"),
    ('a: 1\nb: c: d\n', 2, 'mapping values are not allowed here'),
    ('a: 1\nb: *nowhere\n', 2, "found undefined alias 'nowhere'"),
    ('a: 1\nb: \x01\n', 2, 'special characters are not allowed'),
    ('a: 2024-13-45\n', 1, 'month must be in 1..12'),
    ('a: 1\nb: !!map [c]\n', 1, 'cannot unpack'),
    (b'a: 1\nb: \xe9t\xe9\n', 2, 'not UTF-8 text (byte 0xe9)'),
    ('a: 1\n'.encode('utf-16'), 1, 'not UTF-8 text (byte 0xff)')])
def test_anything_else_is_told_by_file_and_line(tmp_path, content, line, problem):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=re.escape(f'{path}, line {line}: ')) as caught:
        read_yaml(path)
    assert problem in str(caught.value)


def test_no_tag_makes_an_object_or_runs_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tag in ('!!python/object/apply:os.mkdir', '!!python/name:os.mkdir', '!mine'):
        path = write(tmp_path, f'a: 1\nb: {tag} [executed]\n')
        with pytest.raises(ValueError, match='line 2: .*could not determine a constructor'):
            read_yaml(path)
    assert not (tmp_path / 'executed').exists()


def test_text_comes_without_byte_order_mark_and_with_plain_line_ends(tmp_path):
    path = write(tmp_path, b'\xef\xbb\xbfa\r\nb\n')
    assert read_text(path) == 'a\nb\n'
