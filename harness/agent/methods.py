# SPDX-License-Identifier: Apache-2.0
"""What the agent answers to: one function a method, with its parameters and their types."""

from __future__ import annotations

import sys
import traceback
from typing import Any, Callable

from .executor import Executor
from .failure import Failure

__all__ = ["Methods"]

_JSON = {"str": str, "int": int, "list": list, "dict": dict, "bool": bool}


class Methods:
    """The state of one agent and its methods."""

    def __init__(self, bundle_hash: str) -> None:
        self.bundle_hash = bundle_hash
        self.executor = Executor()
        self.table: dict[str, tuple[Callable[..., Any], dict[str, str]]] = {
            "run": (self.executor.run, {"program": "dict"}),
            "session_end": (self._session_end, {"session": "str"}),
        }

    def call(self, name: Any, params: dict[str, Any]) -> Any:
        """Call method `name`; Failure `usage` names the valid methods or parameters."""
        if not isinstance(name, str) or name not in self.table:
            raise Failure("usage", "%r is not a method; valid are %s" % (name, ", ".join(sorted(self.table))))
        function, spec = self.table[name]
        kinds = {key.rstrip("?"): kind for key, kind in spec.items()}
        for key, value in params.items():
            if key not in kinds:
                raise Failure("usage", "%s takes no %r; valid are %s" % (name, key, ", ".join(kinds) or "none"))
            optional = key + "?" in spec
            kind = _JSON[kinds[key]]
            if not (optional and value is None) and (
                not isinstance(value, kind) or (kind is int and isinstance(value, bool))
            ):
                raise Failure("usage", "%s: %s=%.60r is not of type %s" % (name, key, value, kinds[key]))
        for key in spec:
            if not key.endswith("?") and key not in params:
                raise Failure("usage", "%s needs %s" % (name, key))
        return function(**params)

    def _session_end(self, session: str) -> dict[str, Any]:
        self.executor.end_session(session)
        return {}

    def shut_down(self) -> None:
        """Close everything and undo every change of this agent; problems go to stderr, one line each."""
        for step in (self.executor.end_all,):
            try:
                step()
            except Exception:
                sys.stderr.write("vfiocert agent: %s\n" % traceback.format_exc().strip().splitlines()[-1])
