"""A process that writes to a folder, for tests of what others are told."""
import subprocess
import sys

HOLD = ('import sys, time\nfrom glscl.runtime.locks import one_writer\n'
        'with one_writer(sys.argv[1]):\n    print("held", flush=True)\n    time.sleep(600)')


def hold(folder):
    """A process that holds the folder, once it does."""
    process = subprocess.Popen([sys.executable, '-c', HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == 'held\n'
    return process
