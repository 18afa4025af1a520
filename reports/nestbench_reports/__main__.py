"""python3 -m nestbench_reports COMMAND ..."""

import sys

from nestbench_reports.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
