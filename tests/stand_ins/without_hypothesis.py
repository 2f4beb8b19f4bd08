"""Takes the place of hypothesis on a machine that lacks it: its users are imported, tests that draw are skipped."""

import sys
from types import ModuleType, SimpleNamespace

import pytest


class Strategy:
    """Any strategy, and what makes it: whatever is asked of it or done to it gives it again."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments, **options):
        return self

    def __or__(self, other):
        return self


class Settings:
    """Settings that leave a test as it is."""

    default = SimpleNamespace(max_examples=0)

    def __init__(self, *parent, **options):
        pass

    def __call__(self, test):
        return test


def given(*strategies, **named):
    """Skip the test."""
    return pytest.mark.skip(reason="hypothesis is not installed on this machine")


def install():
    """Let ``import hypothesis`` find this."""
    package, strategies = ModuleType("hypothesis"), ModuleType("hypothesis.strategies")
    strategies.__getattr__ = package.__getattr__ = lambda name: getattr(Strategy(), name)
    package.given, package.settings, package.strategies = given, Settings, strategies
    sys.modules.update({"hypothesis": package, "hypothesis.strategies": strategies})
