"""The `deeplab` program.

Nothing has begun while Python imports its modules, so until `main` sets Python's handler again Ctrl-C ends it at once.
"""

import os
import signal
import sys

# A file that is opened takes the number of a closed stream, and would get what libraries print.
for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
    try:
        os.fstat(number)
    except OSError:
        os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        setattr(sys, name, open(number, mode))  # noqa: SIM115
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not ignored, as behind `&` in a script
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from pipelines.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
