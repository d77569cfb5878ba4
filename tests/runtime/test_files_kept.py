"""What is written appears whole, by one writer; what is read shows nothing but text."""
import multiprocessing
import os

import pytest
from runtime.holding import hold

from glscl.runtime import files, locks
from glscl.runtime.files import atomic_write
from glscl.runtime.locks import one_writer
from glscl.runtime.terminal import shown


@pytest.mark.parametrize('fails, durable, arrives', [(1, True, True), (4, True, True), (5, True, False), (1, False, None)])
def test_a_file_that_windows_keeps_open_is_tried_again_and_then_told(tmp_path, monkeypatch, fails, durable, arrives):
    path, left, replace = tmp_path / 'a', [None] * fails, os.replace
    path.write_text('old')

    def busy(*names):
        if left:
            left.pop()
            raise PermissionError(13, 'Access is denied')
        replace(*names)
    monkeypatch.setattr(os, 'replace', busy)
    monkeypatch.setattr(files.time, 'sleep', lambda seconds: None)

    def write():
        with atomic_write(path, durable) as half:
            half.write_text('new')
    if arrives is False:
        with pytest.raises(PermissionError):
            write()
    else:
        write()
    assert path.read_text() == ('new' if arrives else 'old')
    assert [p.name for p in tmp_path.iterdir()] == ['a']


def test_another_process_is_told_who_writes_and_a_killed_one_leaves_no_lock(tmp_path):
    process = hold(tmp_path)
    try:
        for _ in range(2):
            with pytest.raises(ValueError, match=f'process {process.pid} on .*since .* is writing to .*name another folder'):
                with one_writer(tmp_path):
                    pytest.fail('two writers')
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    with one_writer(tmp_path), one_writer(tmp_path):  # one process may enter it again
        pass
    assert [p.name for p in tmp_path.iterdir()] in ([], ['lock'])  # filelock takes it away on Windows
    hold(tmp_path).kill()


def test_the_lock_ends_with_an_error_and_a_disk_without_locks_stops_nobody(tmp_path, monkeypatch):
    with pytest.raises(KeyError), one_writer(tmp_path):
        raise KeyError
    with one_writer(tmp_path):
        pass

    def none(self):
        raise OSError(locks.errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(locks.FileLock, 'acquire', none)
    with one_writer(tmp_path):
        pass
    (tmp_path / 'file').touch()
    with pytest.raises(OSError), one_writer(tmp_path / 'file'):
        pass


@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='no fork')
def test_a_forked_child_does_not_count_as_the_writer(tmp_path):
    def enter(pipe):
        try:
            with one_writer(tmp_path):
                pipe.send('entered')
        except ValueError as error:
            pipe.send(str(error))
    fork = multiprocessing.get_context('fork')
    here, there = fork.Pipe()
    with one_writer(tmp_path):
        child = fork.Process(target=enter, args=(there,))
        child.start()
        assert f'process {os.getpid()} on' in here.recv()
        child.join()


@pytest.mark.parametrize('text, expected', [
    ('Кіно 映画 ü [1] "x".mp4', None), ('a\u200db', None), ('a\nb\r\tc', r'a\nb\r\tc'),
    ('\x1b[31mred\x1b]0;title\x07', r'\x1b[31mred\x1b]0;title\x07'), ('\u202egpj.exe', r'\u202egpj.exe'),
    ('\u2066x\u2069', r'\u2066x\u2069'), ('a\u2028b\u2029', r'a\u2028b\u2029'), ('\x9b31m', r'\x9b31m'),
    ('caf\udce9', r'caf\udce9'), ('zero\u200bwidth\ufeff', r'zero\u200bwidth\ufeff')])
def test_what_would_steer_a_terminal_is_escaped(text, expected):
    assert shown(text) == (text if expected is None else expected)
