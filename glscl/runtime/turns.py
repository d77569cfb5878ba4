"""Who goes first, and what is for each machine: on top of `distributed`, for whatever several
processes have to do with one disk."""
import contextlib

from .distributed import barrier, objects, part, place, rank, world


def on_this_machine():
    """How many of the processes run on this machine."""
    return place()[1]


@contextlib.contextmanager
def first_here():
    """The first process of each machine goes through it before the others, which then find what it
    has kept on disk."""
    waits = world() > 1 and place()[0] > 0
    if waits:
        barrier()
    yield
    if not waits:
        barrier()


def part_here(items):
    """This process's part of what its machine has to do where disks are not shared."""
    return items if world() == 1 else part(items, *place())


def by_first(make):
    """What make() gives in the first process, in all of them; its ValueError or OSError too."""
    found = problem = None
    if rank() == 0:
        try:
            found = make()
        except (ValueError, OSError) as error:
            problem = error
    found, problem = objects((found, problem))[0]
    if problem:
        raise problem
    return found
