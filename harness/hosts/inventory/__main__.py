# SPDX-License-Identifier: Apache-2.0
"""`python -m harness.hosts.inventory > docs/labs.schema.json` publishes the schema of labs.yaml."""

from __future__ import annotations

import json

from harness.hosts.inventory import schema

if __name__ == "__main__":
    print(json.dumps(schema(), indent=2, sort_keys=True))
