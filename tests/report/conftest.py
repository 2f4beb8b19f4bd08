"""One Chromium for the tests of the report's page."""

import pytest


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    from tests.cases.browsers import start_chromium  # skips where selenium is missing

    driver = start_chromium(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
