"""A plugin of pytest: the suite begins by fetching the models of all presets, of which one is here."""
import os
import sys


def pytest_configure(config):
    sys.path.insert(0, os.getcwd())
    import utils

    utils.ServerPreset.load_all = staticmethod(lambda: None)
