"""The tools need Linux."""

import sys

collect_ignore_glob = [] if sys.platform == "linux" else ["*"]
