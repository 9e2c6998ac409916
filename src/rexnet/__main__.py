"""`python -m rexnet`, as torchrun starts it."""

import os
import sys

from rexnet.cli import main
from rexnet.processes import process_count

if __name__ == "__main__":
    main()
    if process_count() > 1:
        # Threads of gloo outlive its process group where DistributedDataParallel was used; on a busy machine they have
        # aborted the end of the interpreter, and torchrun took a finished run for a failed one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
