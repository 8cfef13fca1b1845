"""Gives the networks to one request at a time; translations that wait share a batch."""

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

Asked = TypeVar("Asked")
Made = TypeVar("Made")
Result = TypeVar("Result")


@dataclasses.dataclass(eq=False)
class _Job:
    """Something that waits for the networks.

    Attributes:
      asked: what to translate; None for other work.
      work: other work, which nothing else can share.
      future: gets the result or the error.
    """

    asked: Any = None
    work: Callable[[], Any] | None = None
    future: Future[Any] = dataclasses.field(default_factory=Future)


class Turns(Generic[Asked, Made]):
    """Serves threads in the order in which they ask.

    While the networks are busy, requests wait. When they are free, the first in the line gets them;
    if that is a translation, the next translations in the line come with it, as one batch. So
    nobody waits for a batch to become full.

    Attributes:
      most: the largest number of translations in a batch.
    """

    def __init__(self, translate: Callable[[Sequence[Asked]], Sequence[Made]], most: int):
        """Starts with an empty line.

        Args:
          translate: translates 1 to `most` requests at once, and returns a result for each.
          most: the largest number of translations in a batch.
        """
        self._translate, self.most = translate, most
        self._line: collections.deque[_Job] = collections.deque()
        self._busy = False
        self._changed = threading.Condition()  # Guards the two above.

    def translate(self, asked: Asked) -> Made:
        """Translates one request, perhaps together with others; raises its own error."""
        found: Made = self._wait(_Job(asked))
        return found

    def alone(self, work: Callable[[], Result]) -> Result:
        """Does other work that needs the networks; returns its result or raises its error."""
        found: Result = self._wait(_Job(work=work))
        return found

    def _wait(self, job: _Job) -> Any:
        """Waits in the line; a thread that finds the networks free serves the first in it."""
        with self._changed:
            self._line.append(job)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: job.future.done() or not self._busy)
                if job.future.done():
                    return job.future.result()
                self._busy, jobs = True, self._next()
            try:
                self._serve(jobs)
            except BaseException:
                # This thread ends; others serve the jobs that it leaves.
                left = [other for other in jobs if not other.future.done()]
                with self._changed:
                    self._line.extendleft(reversed(left))
                    if not job.future.done():
                        self._line.remove(job)
                raise
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _next(self) -> list[_Job]:
        """Takes the first job, and if it is a translation, those that can share its batch."""
        first = self._line.popleft()
        if first.work is not None:
            return [first]
        others = [job for job in self._line if job.work is None][: self.most - 1]
        for job in others:
            self._line.remove(job)
        return [first, *others]

    def _serve(self, jobs: list[_Job]) -> None:
        """Gives every job its result or its error."""
        try:
            if jobs[0].work is not None:
                found = [jobs[0].work()]
            else:
                found = list(self._translate([job.asked for job in jobs]))
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].future.set_exception(error)
                return
            # Translating each by itself shows which of them caused the error.
            for job in jobs:
                self._serve([job])
            return
        for job, result in zip(jobs, found, strict=True):
            job.future.set_result(result)
