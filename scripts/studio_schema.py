"""The OpenAPI schema of the studio on stdout, for the types of its front end (`make check-web`); no route serves it."""

from __future__ import annotations

import json

from tsuika.studio.app import routes

print(json.dumps(routes().openapi(), indent=1, sort_keys=True))
