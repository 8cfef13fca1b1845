"""The page as a program of its own, as a person starts it."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import numpy as np
import psutil
import pytest
from PIL import Image

from cocosnet_jax import pictures
from cocosnet_jax.apps import reading
from cocosnet_jax.inference import Translator
from cocosnet_jax.page import scenes
from cocosnet_jax.pretrained import SHIPPED
from tests.conftest import ROOT

LIMIT_S = 600  # for the page to start or to end, on a loaded machine


@pytest.fixture(scope="package", autouse=True)
def downloads(tmp_path_factory):
    """Gradio's client leaves an empty temporary folder for each file that it downloads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("downloads")))
        yield


class Page(NamedTuple):
    """A page that is being served.

    Attributes:
      url: its address.
      process: its server.
      log: what the server says.
    """

    url: str
    process: psutil.Process
    log: "os.PathLike[str]"

    def megabytes(self):
        """The server's memory that is in RAM."""
        return self.process.memory_info().rss / 2**20


@pytest.fixture(scope="package")
def served(tmp_path_factory):
    """The page of the shipped model; no test of this package leaves it broken."""
    folder = tmp_path_factory.mktemp("page")
    log = folder / "log.txt"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        # Settings that Gradio reads, and that the page must ignore.
        "GRADIO_SHARE": "True",
        "GRADIO_ALLOWED_PATHS": "/",
        "GRADIO_SERVER_NAME": "0.0.0.0",
        "TMPDIR": str(folder),
    }
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "cocosnet_jax.demo", "--port=0"],
            cwd=ROOT,
            env=environment,
            stdout=file,
            stderr=subprocess.STDOUT,
            # A shell that runs tests in the background makes them ignore SIGINT.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    try:
        end = time.monotonic() + LIMIT_S
        while not (found := re.search(r"open (http://\S+) in", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, "the page did not start"
            time.sleep(0.2)
        yield Page(found[1], psutil.Process(process.pid), log)
        process.send_signal(signal.SIGINT)
        assert process.wait(LIMIT_S) == 130
        # Uploads and results are gone.
        assert not list(folder.glob("cocosnet-page-*"))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()


class Truth(NamedTuple):
    """What the page must show, computed without it.

    Attributes:
      translator: the shipped model.
      examples: the page's scenes.
    """

    translator: Translator
    examples: list[scenes.Example]

    def translate(self, planes, exemplar):
        """Result and warped exemplar."""
        given = reading.at_size(exemplar, self.translator)
        outputs = self.translator.translate(planes[None], given)
        return [
            pictures.to_bytes(np.asarray(x[0])) for x in (outputs.image, outputs.warped_exemplar)
        ]


@pytest.fixture(scope="package")
def truth():
    # The page and this are both compiled by the flags of tests/fast.py.
    translator = Translator(SHIPPED)
    return Truth(translator, scenes.draw(translator.settings.data, translator.size))


def read(path):
    return np.asarray(Image.open(path))
