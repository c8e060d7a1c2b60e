"""Reads a dashboard into Grafana's own types, and says what of it those do not know."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard


def differences(said, read, path):
    """What of `said` did not come through; defaults that were added to it are no matter."""
    if isinstance(said, dict) and isinstance(read, dict):
        for name, value in said.items():
            if name in read:
                yield from differences(value, read[name], f"{path}/{name}")
            else:
                yield f"{path}/{name}: not known"
    elif isinstance(said, list) and isinstance(read, list) and len(said) == len(read):
        for index, (one, other) in enumerate(zip(said, read)):
            yield from differences(one, other, f"{path}/{index}")
    elif said != read or type(said) is not type(read):
        yield f"{path}: {said!r} is read as {read!r}"


register_default_plugins()
with open(sys.argv[1], encoding="utf-8") as file:
    said = json.load(file)
read = json.loads(JSONEncoder(sort_keys=True).encode(Dashboard.from_json(said)))
found = list(differences(said, read, ""))
print("\n".join(found))
sys.exit(bool(found))
