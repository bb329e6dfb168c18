"""Plain dicts and orjson: the least that one can write. Nothing is checked; a message is whatever dict came."""

from __future__ import annotations

import orjson

from bench.codecs import ORJSON, Codec

# The functions themselves, without a call of ours around them: that is how a user of dicts would have it.
CODEC = Codec(ORJSON, "nothing checked, no types", lambda _: orjson.loads, orjson.dumps)
