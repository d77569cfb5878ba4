"""One writer in a folder: the others are told who it is."""
import contextlib
import datetime
import errno
import os
import platform
from pathlib import Path

from filelock import FileLock, Timeout

from . import distributed, turns
from .files import one_line

# What a disk says that has no locks.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
_held = {}  # {(process, folder): how often `one_writer` has been entered there}


@contextlib.contextmanager
def one_writer(folder, timeout=0):
    """Within it no other process writes to `folder`, which is made; ValueError says which one does,
    OSError why the folder cannot be written to.

    The lock is the system's own: it ends with its process, however that ends. A process may enter
    it again; on a disk without locks everyone may write. Of processes that train together the
    first holds it for all, and where it cannot, all raise its error. timeout: seconds to wait."""
    with contextlib.ExitStack() as stack:
        turns.by_first(lambda: stack.enter_context(locked(folder, timeout)))
        yield


@contextlib.contextmanager
def in_turn(folder, timeout, log):
    """`locked`, for writers that take turns: for whom this one waits is told to `log` once it has
    waited for `timeout` seconds."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(folder, timeout))
        except ValueError as error:
            log(f'{error}. This process waits')
            stack.enter_context(locked(folder, distributed.PATIENCE.total_seconds()))
        yield


@contextlib.contextmanager
def locked(folder, timeout=0):
    """`one_writer` of this process alone, whatever others there are beside it."""
    folder = Path(folder)
    key, holder = (os.getpid(), os.path.realpath(folder)), folder / '.writer'
    lock = FileLock(folder / 'lock', timeout=timeout)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _held.get(key):
            lock.acquire()
            now = datetime.datetime.now().isoformat(' ', 'minutes')
            with contextlib.suppress(OSError):
                holder.write_text(f'process {key[0]} on {platform.node()} (since {now})', 'utf-8')
    except Timeout:
        raise ValueError(f'{_who(holder)} is writing to {folder}: wait for its end, or name '
                         f'another folder') from None
    except (NotImplementedError, OSError) as error:
        if getattr(error, 'errno', errno.ENOSYS) not in NO_LOCKS:
            raise OSError(f'cannot write to {folder} ({one_line(error)}). Is it yours to write to? '
                          f'Name another run_dir, or folder') from None
    _held[key] = _held.get(key, 0) + 1
    try:
        yield
    finally:
        _held[key] -= 1
        if not _held[key]:
            with contextlib.suppress(OSError):
                holder.unlink()
            lock.release()


def _who(holder):
    """The process that its file names, if it has come to write it."""
    with contextlib.suppress(OSError, ValueError):
        return one_line(holder.read_text('utf-8') or 'another process')
    return 'another process'
