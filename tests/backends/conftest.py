"""Fixtures for the tests of backends."""

import pytest

from gpucoron.backends.devices import native_device


@pytest.fixture
def launched(monkeypatch):
    """Names of the native kernels that were launched."""
    names, launch = [], native_device.NativeKernels.launch

    def note(self, name, *arguments):
        names.append(name)
        launch(self, name, *arguments)

    monkeypatch.setattr(native_device.NativeKernels, "launch", note)
    return names
