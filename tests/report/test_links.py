"""Links of a report: only to files that exist in the folder of the products, relative to the page."""

from urllib.parse import unquote, urljoin

import pytest

from gpucoron.report.links import linked_files, links_of


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my stage1"
    for name in ("logs/x.log", "x_rate.fits", "50 %?#_rateints.fits", "a:b.fits", "below/x_ramp.fits"):
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
        links = links_of(record, folder, page)
        assert [label for label, _ in links] == ["log", "rate", "rateints", "odd", "ramp"]
        for _, address in links:
            # as a browser resolves it
            target = urljoin(page.as_uri(), address).removeprefix("file://")
            assert unquote(target) in {str(path) for path in folder.rglob("*.*")}


def test_addresses_of_a_served_page_are_below_its_own(folder):
    links = dict(links_of(make(rateints="50 %?#_rateints.fits"), folder, "/tmp/any.html", serve="/token"))
    assert links == {"log": "/token/files/logs/x.log", "rateints": "/token/files/50%20%25%3F%23_rateints.fits"}


@pytest.mark.parametrize(
    "name", ["../secret.fits", "below/../../secret.fits", "", None, 5, "x\0.fits", "none.fits", "."]
)
def test_no_link_leads_out_of_the_folder(folder, name):
    assert linked_files(make(rate=name), folder) == [("log", "logs/x.log")]


def test_no_link_leads_to_an_absolute_path(folder):
    assert linked_files(make(rate=str(folder / "x_rate.fits")), folder) == [("log", "logs/x.log")]


def test_odd_records(folder):
    assert linked_files({"exposure": "../../x", "outputs": []}, folder) == [("log", "logs/x.log")]
    assert linked_files({}, folder) == []
