# SPDX-License-Identifier: Apache-2.0
"""Run the agent from memory, with an importer over `{module name: source}`: no file is written.

The boot line executes this file with `MODULES` and `HASH` in its globals.  `MODULES[""]`, where present, is
`{"tag": .., "code": {module name: text}}`: the modules as compiled by the controller (marshal, as latin-1),
used if this Python has the same version.  Imports here must be cheap: on an emulated machine,
`importlib.abc` alone takes longer than all of the agent.
"""

from __future__ import annotations

import marshal
import sys
from importlib.machinery import ModuleSpec


class _Importer:
    """Imports `harness` and what is below it from the bundle, and nothing else."""

    def __init__(self, modules):  # type: ignore[no-untyped-def]
        compiled = modules.pop("", None) or {}
        version = "%s %s" % (sys.implementation.cache_tag, sys.version_info[3])
        self.modules = modules
        self.code = compiled.get("code", {}) if compiled.get("tag") == version else {}

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        if fullname not in self.modules:
            return None
        package = any(name.startswith(fullname + ".") for name in self.modules)
        return ModuleSpec(fullname, self, is_package=package)  # type: ignore[arg-type]

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return None

    def get_source(self, fullname):  # type: ignore[no-untyped-def]
        # Tracebacks get their source lines from this.
        return self.modules[fullname]

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        name = module.__name__
        if name in self.code:
            code = marshal.loads(self.code[name].encode("latin-1"))
        else:
            code = compile(self.modules[name], "vfiocert:" + name, "exec", dont_inherit=True)
        exec(code, module.__dict__)


def _start(modules, bundle_hash):  # type: ignore[no-untyped-def]
    sys.meta_path.insert(0, _Importer(modules))  # type: ignore
    from harness.agent import main

    main.main(bundle_hash)


if "MODULES" in globals():
    _start(globals()["MODULES"], globals()["HASH"])  # type: ignore[no-untyped-call]
