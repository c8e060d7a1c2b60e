# SPDX-License-Identifier: MIT OR Apache-2.0

"""Reads a dashboard into Grafana's own types, and prints the parts that these types do not have."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def differences(written, read, path):
    """The parts of `written` that are not in `read`. Defaults that were added to it are ignored."""
    if isinstance(written, dict) and isinstance(read, dict):
        for name, value in written.items():
            if name in read:
                yield from differences(value, read[name], f"{path}/{name}")
            else:
                yield f"{path}/{name}: not known"
    elif isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        for index, (one, other) in enumerate(zip(written, read)):
            yield from differences(one, other, f"{path}/{index}")
    elif written != read or type(written) is not type(read):
        yield f"{path}: {written!r} is read as {read!r}"


register_default_plugins()
with open(sys.argv[1], encoding="utf-8") as file:
    written = json.load(file)
read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(written)))
found = list(differences(written, read, ""))
print("\n".join(found))
sys.exit(bool(found))
