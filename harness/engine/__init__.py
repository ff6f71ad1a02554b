"""What runs in a rank. Importing it takes seconds (torch), so whose child this process is is noted first."""

import os

PARENT = os.getppid()
