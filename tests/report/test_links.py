"""Links of a report: only to files that exist in the folder of the products, relative to the page."""

from pathlib import Path
from urllib.parse import unquote, urljoin

import pytest

from gpucoron.report.links import linked_files, links_of


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my stage1"
    for name in ("logs/x.log", "x_rate.fits", "50 %?#_rateints.fits", "a:b.fits"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (tmp_path / "secret.fits").write_text("outside")
    return folder


def make(**outputs):
    return {"exposure": "x", "outputs": outputs}


def test_addresses_lead_to_the_files(folder):
    record = make(
        rate="x_rate.fits", rateints="50 %?#_rateints.fits", odd="a:b.fits", ramp="below/x_ramp.fits", gone="y"
    )
    for page in (folder / "report.html", folder.parent / "elsewhere" / "page.html"):
        links = links_of(folder, record, page)
        assert [label for label, _ in links] == ["log", "rate", "rateints", "odd"]
        for _, address in links:
            # as a browser resolves it
            target = urljoin(page.as_uri(), address).removeprefix("file://")
            assert unquote(target) in {str(path) for path in folder.rglob("*.*")}


def test_addresses_of_a_served_page_are_below_its_own(folder):
    links = dict(links_of(folder, make(rateints="50 %?#_rateints.fits"), Path("any.html"), serve="/token"))
    assert links == {"log": "/token/files/logs/x.log", "rateints": "/token/files/50%20%25%3F%23_rateints.fits"}


@pytest.mark.parametrize(
    "name", ["../secret.fits", "below/../../secret.fits", "", None, 5, "x\0.fits", "none.fits", "."]
)
def test_no_link_leads_out_of_the_folder(folder, name):
    assert linked_files(folder, make(rate=name)) == [("log", "logs/x.log")]


def test_the_folders_of_names_are_ignored(folder):
    for name in (str(folder / "x_rate.fits"), "/etc/x_rate.fits", "elsewhere/x_rate.fits"):
        assert linked_files(folder, make(rate=name)) == [("log", "logs/x.log"), ("rate", "x_rate.fits")]


def test_records_from_headers_and_odd_ones(folder):
    (folder / "x_rateints.fits").touch()
    of_product = {"exposure": "x", "status": "product", "outputs": {"rate": "x_rate.fits"}}
    assert [label for label, _ in linked_files(folder, of_product)] == ["log", "rate", "rateints"]
    assert linked_files(folder, {"exposure": "../../x", "outputs": []}) == [("log", "logs/x.log")]
