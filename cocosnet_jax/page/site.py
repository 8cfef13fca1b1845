"""Puts the page together and serves it."""

import os
import shutil
import socket
import tempfile
import time
import types
from pathlib import Path

from cocosnet_jax.errors import UserError

# Before Gradio is imported. Gradio reads settings from the environment, which could open the page
# wider than the flags say: a public tunnel, more folders, another address.
for _name in [name for name in os.environ if name.startswith("GRADIO_")]:
    del os.environ[_name]
os.environ |= {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# ruff: noqa: E402
import gradio as gr
from starlette.middleware import Middleware

from cocosnet_jax.page import api, matches, tabs, uploads
from cocosnet_jax.page.guard import Guard
from cocosnet_jax.page.parts import Desk
from cocosnet_jax.page.studio import Studio

LOOPBACK = ("127.0.0.1", "localhost", "::1")
WAITING = 64  # requests that may wait their turn
KEPT_S = 3600  # seconds that uploads and results are kept
SESSIONS = 50  # whose state is kept
_TITLE = "CoCosNet: pictures by example"
_TABS = (
    ("Translate", tabs.translate),
    ("Edit", tabs.edit),
    ("Makeup", tabs.makeup),
    ("Correspondence", matches.correspond),
)


class Site:
    """A page that is being served, until `close`.

    Attributes:
      url: its address.
      folder: where it keeps uploads and results; `close` removes it.
    """

    def __init__(self, studio: Studio, address: str, port: int):
        """Builds the page and starts to serve it.

        Args:
          studio: what computes.
          address: of this machine, under which the page is served.
          port: 0 for any that is free.

        Raises:
          UserError: the address and port cannot be used.
        """
        port = free_port(address, port)
        self.folder = Path(tempfile.mkdtemp(prefix="cocosnet-page-"))
        os.environ["GRADIO_TEMP_DIR"] = str(self.folder)
        os.environ["GRADIO_EXAMPLES_CACHE"] = str(self.folder / "examples")
        try:
            self._blocks = build(Desk(studio, self.folder))
            self._launch(address, port)
        except BaseException:  # Ctrl-C as well
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        name = f"[{address}]" if ":" in address else address
        self.url = f"http://{name}:{port}"

    def _launch(self, address: str, port: int) -> None:
        hosts = frozenset((*LOOPBACK, "[::1]")) if address in LOOPBACK else None
        theme = gr.themes.Soft(
            font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        )
        self._blocks.launch(
            server_name=address,
            server_port=port,
            app_kwargs={"middleware": [Middleware(Guard, folder=self.folder, hosts=hosts)]},
            max_file_size=uploads.MAX_BYTES,
            state_session_capacity=SESSIONS,
            theme=theme,
            css=(Path(__file__).parent / "page.css").read_text(),
            footer_links=["api"],
            quiet=True,
            show_error=True,
            prevent_thread_lock=True,
            allowed_paths=[],
            share=False,
            ssr_mode=False,
            run_history=False,
            mcp_server=False,
            enable_monitoring=False,
            pwa=False,
        )

    def wait(self) -> None:
        """Serves until Ctrl-C."""
        while True:
            time.sleep(3600)

    def close(self) -> None:
        """Stops serving, and removes uploads and results."""
        self._blocks.close(verbose=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> "Site":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()


def build(desk: Desk) -> gr.Blocks:
    """The page with its tabs and its API."""
    with gr.Blocks(title=_TITLE, analytics_enabled=False, delete_cache=(600, KEPT_S)) as blocks:
        gr.Markdown(f"# {_TITLE}")
        with gr.Tabs():
            for name, tab in _TABS:
                with gr.Tab(name, id=name.lower()):
                    tab(desk)
        api.define(desk)
    return blocks.queue(max_size=WAITING)


def free_port(address: str, port: int) -> int:
    """The port, or if it is 0, one that is free.

    Raises:
      UserError: it is taken, or the address does not belong to this machine.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        raise UserError(
            f"--address={address} --port={port} cannot be served ({error}); choose another --port,"
            " or an address of this machine"
        ) from None
