"""In place of the package of this name: one process runs the suite."""
import contextlib


def FileLock(path):
    return contextlib.nullcontext()
