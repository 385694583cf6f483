"""The `deeplab` program.

Nothing has begun while Python imports its modules, so until `main` sets Python's handler again Ctrl-C ends it at once.
"""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as behind `&` in a script
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pipelines.cli import main

if __name__ == "__main__":
    sys.exit(main())
