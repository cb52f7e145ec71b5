"""`python -m fedrobust`: the command line."""

import sys

from fedrobust.import_path import leave_current_folder

if __name__ == "__main__":
    leave_current_folder()  # before anything else is imported
    from fedrobust.cli import main

    sys.exit(main())
