# SPDX-License-Identifier: Apache-2.0
"""Runs the agent out of memory: an importer over `{module name: source}`, so that no file is written.

The boot line executes this file with `MODULES` and `HASH` in its globals.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import linecache
import sys


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports `harness` and what is below it from the bundle, and nothing else."""

    def __init__(self, modules):  # type: ignore[no-untyped-def]
        self.modules = modules

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        if fullname not in self.modules:
            return None
        package = any(name.startswith(fullname + ".") for name in self.modules)
        return importlib.util.spec_from_loader(fullname, self, is_package=package)

    def create_module(self, spec):  # type: ignore[no-untyped-def]
        return None

    def exec_module(self, module):  # type: ignore[no-untyped-def]
        source = self.modules[module.__name__]
        name = "<vfiocert %s>" % module.__name__
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), module.__dict__)


def _start(modules, bundle_hash):  # type: ignore[no-untyped-def]
    sys.meta_path.insert(0, _Importer(modules))  # type: ignore[no-untyped-call]
    from harness.agent import main

    main.main(bundle_hash)


if "MODULES" in globals():
    _start(globals()["MODULES"], globals()["HASH"])  # type: ignore[no-untyped-call]
