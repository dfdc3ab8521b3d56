"""A local storage server for the host's own tests."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
START_SECONDS = 30


def _azurite_script():
    installed = PROJECT / ".groundwork" / "node" / "node_modules" / "azurite"
    folder = Path(os.environ.get("AZURITE_DIR", installed))
    return folder / "dist" / "src" / "azurite.js"


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _listens(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="session")
def storage_account():
    """The connection string of an Azurite that lives as long as the test session."""
    script, node = _azurite_script(), shutil.which("node")
    assert script.is_file(), f"no Azurite at {script}: run `python dev.py test`"
    blob, queue, table = _free_ports(3)
    flags = ["--silent", "--disableTelemetry", "--skipApiVersionCheck", "--inMemoryPersistence"]
    ports = ["--blobPort", str(blob), "--queuePort", str(queue), "--tablePort", str(table)]
    process = subprocess.Popen([str(node), str(script), *flags, *ports], stdout=subprocess.DEVNULL)
    give_up = time.monotonic() + START_SECONDS
    while not (_listens(blob) and _listens(queue)):
        assert time.monotonic() < give_up, "Azurite did not start"
        time.sleep(0.1)
    yield (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint=http://127.0.0.1:{blob}/{ACCOUNT};QueueEndpoint=http://127.0.0.1:{queue}/{ACCOUNT};"
    )
    process.kill()
    process.wait()
