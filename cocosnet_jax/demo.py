"""Serves a web page: paint a label map, choose an exemplar, see the translation.

    python -m cocosnet_jax.demo --checkpoint=runs/ade20k

prints the page's address, http://127.0.0.1:7860; Ctrl-C ends it. Its tabs translate what you paint,
edit photographs by their label maps, carry strokes from one picture to others, and show matches of
the places that you click. Without `--checkpoint`, the program's own small model of drawn scenes is
used, with scenes to try it on. Nothing is downloaded, and the page asks no other server for
anything.

Only this machine can open the page, unless `--address` names one of its addresses in a network
(0.0.0.0 for all). Anyone who reaches that address can use the page. docs/page.md says which files
and requests it accepts, and how programs call it by Gradio's client.

It needs Gradio: `make page` installs it, or `pip install "cocosnet_jax[page]"`.
"""

import ctypes
import importlib.util
import os
import signal
import sys

from absl import flags

from cocosnet_jax import command
from cocosnet_jax.errors import UserError
from cocosnet_jax.pretrained import CHECKPOINT_FLAG, or_shipped

# The page starts sooner, and a translation takes as long.
XLA_FLAGS = "--xla_backend_optimization_level=1"
# glibc's number of an option of mallopt, and its value in bytes, below Pillow's blocks of 16 MiB.
M_MMAP_THRESHOLD, LARGE_BYTES = -3, 8 * 2**20


def give_large_blocks_back() -> None:
    """Makes every large block of memory return to the system when it is freed, with glibc.

    By default glibc keeps blocks of up to 32 MiB once it has seen some: after many photographs a
    page would hold hundreds of megabytes that nothing uses. A translation with the small model
    takes 10 ms longer for it, since the networks' own blocks are returned too.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)


def main() -> None:
    """Loads the networks, compiles them, serves the page."""
    values = flags.FLAGS
    give_large_blocks_back()
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the page needs Gradio; run make page, or pip install 'cocosnet_jax[page]'")
    from cocosnet_jax import checkpoint
    from cocosnet_jax.inference import Translator
    from cocosnet_jax.page import site
    from cocosnet_jax.page.studio import Studio

    # Checked before the networks are loaded, which takes a while.
    port = site.free_port(values.address, values.port)
    # Of two equal flags the last counts, so the user's come last.
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
    restored = checkpoint.restore_for_inference(or_shipped(values.checkpoint))
    studio = Studio(Translator(restored, values.size))
    studio.compile()
    # Servers are often ended by SIGTERM; then, too, uploads must be deleted.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with site.Site(studio, values.address, port) as page:
        print(f"open {page.url} in a browser; Ctrl-C ends it", flush=True)
        page.wait()


def run() -> None:
    """The command `cocosnet-demo`."""
    flags.DEFINE_string(
        "checkpoint",
        "",
        CHECKPOINT_FLAG,
    )
    flags.DEFINE_string(
        "address", "127.0.0.1", "this machine's address at which the page is served"
    )
    flags.DEFINE_integer("port", 7860, "port of the page; 0 chooses a free one", 0, 65535)
    flags.DEFINE_integer(
        "size", 0, "side of the pictures, a multiple of 32; 0 for the size of the training"
    )
    command.run(main, __doc__)


if __name__ == "__main__":
    run()
