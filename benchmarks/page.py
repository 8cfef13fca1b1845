"""Requests per second of the page's server: several clients at once, batched and one by one.

    python -m benchmarks.page [--clients=1,8] [--together=2,4] [--requests=8] [--rounds=3]

Each client is a thread that does what the server does for a request of `/translate`: reads an
uploaded label map and exemplar (PNG), waits for its turn, translates, and writes both results as
PNG. It sends the next request when it has the last one's results. "One by one" holds a lock during
the whole request. In batches, only the networks are shared, and up to TOGETHER requests that wait
for them are translated at once (`cocosnet_jax.page.turns`).

All ways take turns in each round. The table has the medians over the rounds: requests per second,
their ratio to one by one in the same round, the clients' median and longest time to the result, and
CPU time per request, which other work on the machine changes least. The model is the shipped one,
compiled as the page compiles it.
"""

import argparse
import contextlib
import io
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from PIL import Image


class Round(NamedTuple):
    """What one round measured.

    Attributes:
      rate: requests per second.
      middle, longest: seconds from a request to its result.
      work: CPU seconds per request.
    """

    rate: float
    middle: float
    longest: float
    work: float


def measure(visit: Callable[[int], None], clients: int, requests: int) -> Round:
    """Lets clients send a number of requests in all, as fast as they are answered."""
    took: list[float] = []
    left = iter(range(requests))
    lock = threading.Lock()

    def client() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            began = time.perf_counter()
            visit(number)
            took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began, worked = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(took) == requests, "a request failed"
    rate = requests / (time.perf_counter() - began)
    work = (time.process_time() - worked) / requests
    return Round(rate, statistics.median(took), max(took), work)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", default="1,8", help="numbers of simultaneous clients")
    parser.add_argument("--together", default="2,4", help="translations of a batch at most")
    parser.add_argument("--requests", type=int, default=8, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    from cocosnet_jax.demo import XLA_FLAGS

    # Before JAX is imported.
    os.environ["XLA_FLAGS"] = f"{XLA_FLAGS} {os.environ.get('XLA_FLAGS', '')}"
    import jax

    from cocosnet_jax.inference import Translator
    from cocosnet_jax.page import uploads
    from cocosnet_jax.page.studio import Studio
    from cocosnet_jax.pretrained import SHIPPED

    translator = Translator(SHIPPED)
    numbers = [int(number) for number in arguments.together.split(",")]
    studios = {number: Studio(translator, number) for number in numbers}
    alone, examples = Studio(translator, 1), studios[numbers[0]].scenes
    for number in {1, *numbers}:
        translator.compile(number)
    lock = threading.Lock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for place, example in enumerate(examples):
            Image.fromarray(example.planes[..., 0]).save(folder / f"{place}_map.png")
            Image.fromarray(example.image).save(folder / f"{place}.png")

        def visit(studio: Studio, number: int) -> None:
            layout, style = number % len(examples), (number + 1) % len(examples)
            planes = studio.read_map(folder / f"{layout}_map.png", "label")
            exemplar = uploads.read_photograph(folder / f"{style}.png", "exemplar")
            for result in studio.translate(planes, exemplar, None):
                Image.fromarray(result).save(io.BytesIO(), "PNG")

        def way(number: int) -> Callable[[int], None]:
            def call(request: int) -> None:
                with contextlib.nullcontext() if number else lock:
                    visit(studios.get(number, alone), request)

            return call

        ways = {0: "one by one"} | {number: f"up to {number} together" for number in numbers}
        counts = [int(count) for count in arguments.clients.split(",")]
        found: dict[tuple[int, int], list[Round]] = {(c, w): [] for c in counts for w in ways}
        for _ in range(arguments.rounds):
            for clients, number in found:
                found[clients, number].append(measure(way(number), clients, arguments.requests))
    print(f"{jax.devices()[0].device_kind}, pictures of {translator.size}, page's flags\n")
    print("| clients | requests | requests/s | ratio | median time, s | longest, s | CPU s |")
    print("|---" * 7 + "|")
    for (clients, number), rounds in found.items():
        middle = Round(*map(statistics.median, zip(*rounds, strict=True)))
        beside = zip(rounds, found[clients, 0], strict=True)
        ratio = statistics.median(one.rate / other.rate for one, other in beside)
        print(
            f"| {clients} | {ways[number]} | {middle.rate:.2f} | {ratio:.2f} |"
            f" {middle.middle:.2f} | {middle.longest:.2f} | {middle.work:.2f} |"
        )


if __name__ == "__main__":
    main()
