"""Replacement for hypothesis on machines without it: tests can be imported; those that draw examples are skipped."""

import sys
from types import ModuleType, SimpleNamespace

import pytest


class Strategy:
    """Any strategy or function that makes one: every attribute and call returns it again."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments, **options):
        return self

    def __or__(self, other):
        return self


class Settings:
    """Settings without effect."""

    default = SimpleNamespace(max_examples=0)

    def __init__(self, *parent, **options):
        pass

    def __call__(self, test):
        return test


def given(*strategies, **named):
    """Skip the test."""
    return pytest.mark.skip(reason="hypothesis is not installed on this machine")


def install():
    """Let ``import hypothesis`` find this module."""
    package, strategies = ModuleType("hypothesis"), ModuleType("hypothesis.strategies")
    strategies.__getattr__ = package.__getattr__ = lambda name: getattr(Strategy(), name)
    package.given, package.settings, package.strategies = given, Settings, strategies
    sys.modules.update({"hypothesis": package, "hypothesis.strategies": strategies})
