"""Health check of a container: `python healthy.py URL [CA]` ends with 0 where URL answers 200, over TLS by this CA."""

import ssl
import sys
from urllib.request import urlopen

url, ca = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
context = ssl.create_default_context(cafile=ca) if ca else None
sys.exit(urlopen(url, timeout=5, context=context).status != 200)
