"""Development programs that pytest does not collect: run them as ``python -m tests.tools.NAME``."""
