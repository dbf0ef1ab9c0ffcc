"""Against a PACS that others wrote: Orthanc sends by C-STORE, and serves DICOMweb where it has the plugin."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from tests.imaging.samples import KEY, WHEEL

from primum.imaging import pseudonym
from primum.imaging.dicomweb import Server, Wanted, pull
from primum.imaging.inbox import Inbox
from primum.imaging.receive import Door, receiving
from primum.ports import free_port

ORTHANC = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
PLUGINS = sorted(Path("/usr").glob("*/orthanc/**/libOrthancDicomWeb.so*"))
FILES = ["CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_small_jpeg_ls_lossless.dcm"]
DIFFERENT = 4  # two of them are one instance, of which Orthanc keeps the first

pytestmark = pytest.mark.skipif(not Path(ORTHANC).exists(), reason="Orthanc is not installed")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """Base URL of an Orthanc that holds `FILES`, and the port at which it knows us as `primum`."""
    folder, web, ours = tmp_path_factory.mktemp("orthanc"), free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "HttpPort": web, "DicomPort": free_port(),
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "DicomServerEnabled": False,
        "DicomModalities": {"primum": ["PRIMUM", "127.0.0.1", ours]}, "Plugins": [str(path) for path in PLUGINS[:1]],
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        [ORTHANC, str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{web}"
    try:
        with httpx.Client(base_url=url, trust_env=False) as client:
            _wait(client)
            for name in FILES:
                client.post("/instances", content=(WHEEL / name).read_bytes()).raise_for_status()
        yield url, ours
    finally:
        process.kill()  # it takes its time over `terminate`, and nothing here is kept
        process.wait(20)


def _wait(client: httpx.Client) -> None:
    for _ in range(200):
        try:
            client.get("/system")
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("Orthanc did not start")


def _check(folder: Path) -> None:
    written = {path.parts[-3]: path.read_bytes() for path in folder.rglob("*.dcm")}
    for name in FILES:
        head = dcmread(WHEEL / name, stop_before_pixels=True)
        assert pseudonym(str(head.PatientID), KEY) in written
        assert all(str(head.PatientName).encode() not in data for data in written.values())


def test_orthanc_sends_all_that_it_has(orthanc: tuple[str, int], tmp_path: Path) -> None:
    url, port = orthanc
    inbox = Inbox(tmp_path, KEY)
    with (
        receiving(inbox, Door(port=port, senders=("ORTHANC",))),
        httpx.Client(base_url=url, trust_env=False, timeout=60) as client,
    ):
        assert client.post("/modalities/primum/echo", content="{}").is_success
        instances: list[Any] = client.get("/instances").json()
        client.post("/modalities/primum/store", json=instances).raise_for_status()
        assert client.post("/modalities/primum/store", json=instances).is_success
    assert len(instances) == inbox.new == inbox.there == DIFFERENT and not inbox.aside
    _check(tmp_path)


@pytest.mark.skipif(not PLUGINS, reason="Orthanc has no DICOMweb plugin (orthanc-dicomweb)")
def test_all_that_orthanc_has_is_pulled(orthanc: tuple[str, int], tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, KEY)
    pulled = pull(Server(f"{orthanc[0]}/dicom-web"), Wanted(), inbox)
    assert (pulled.found, pulled.fetched, inbox.new) == (DIFFERENT,) * 3 and not inbox.aside
    assert pull(Server(f"{orthanc[0]}/dicom-web"), Wanted(modality="CT"), inbox).there == 1
    _check(tmp_path)
