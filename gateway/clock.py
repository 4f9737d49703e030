"""The clock of the request's way.

An imported function is looked up in a dictionary each time that compiled code calls it; a `Final` of a compiled module
is a variable of C. A request reads the clock a dozen times.
"""

import time
from typing import Final

monotonic: Final = time.monotonic
