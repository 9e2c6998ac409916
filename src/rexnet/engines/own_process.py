"""A function in a process of its own, which shares neither memory nor threads with other such functions."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any, final

from rexnet.processes import starting_workers


@final
class OwnProcess:
    """Process that starts at once and runs one function, from `prepare` to the end of the context. Unlike a process of
    multiprocessing, it does not run the main script again. It ends when this process ends for any reason.
    """

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with starting_workers():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
            )

    def __enter__(self) -> "OwnProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def prepare(self, prepare: Callable[..., Callable[..., object]], *arguments: object) -> None:
        """Make the process call `prepare(*arguments)`, which returns the function to run; both are pickled."""
        self._ask(prepare, arguments)

    def __call__(self, *arguments: object) -> Any:
        """Return the function's result. Raise its error, as a ValueError if it cannot be pickled, and OSError if the
        process has ended."""
        return self._ask(None, arguments)

    def _ask(self, *request: object) -> Any:
        content = pickle.dumps(request)
        requests, replies = self._process.stdin, self._process.stdout
        assert requests and replies
        try:
            pickle.dump(content, requests)
            requests.flush()
            result, error = pickle.loads(pickle.load(replies))
        except (EOFError, BrokenPipeError) as error:
            raise OSError(f"its process ended with exit code {self._process.wait()}") from error
        if error is not None:
            raise error
        return result


def _main() -> None:
    """Answer the requests of an OwnProcess until it closes the pipe."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # keep an engine's output out of the replies
    function: Any = None
    try:
        while True:
            # A request is pickled twice, so that an unreadable one does not affect the next.
            content = pickle.load(sys.stdin.buffer)
            try:
                prepare, arguments = pickle.loads(content)
                result = None
                if prepare is None:
                    result = function(*arguments)
                else:
                    function = prepare(*arguments)
                reply = pickle.dumps((result, None))
            except Exception as error:  # engines raise errors of any class
                reply = pickle.dumps((None, _portable(error)))
            pickle.dump(reply, replies)
            replies.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)  # an engine's threads may keep the process from ending


def _portable(error: Exception) -> Exception:
    """Return the error, or its text as a ValueError if it cannot be pickled."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return ValueError(str(error) or type(error).__name__)


if __name__ == "__main__":
    _main()
