"""The names of 0.1: `harness.core.X` is the module that X has become, with a DeprecationWarning. Goes with 0.3."""

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "config": "harness.config.compose",
    "content": "harness.config.input_digests",
    "cost": "harness.plan.cost",
    "curves": "harness.jobdir.replay",
    "data": "harness.data.contract",
    "errors": "harness.common.errors",
    "evidence": "harness.results.evidence",
    "figure": "harness.results.figure",
    "files": "harness.common.atomic_files",
    "garbage": "harness.plan.gc",
    "hold_out": "harness.data.hold_out",
    "job": "harness.plan.job",
    "journal": "harness.jobdir.events",
    "lease": "harness.jobdir.lease",
    "machine": "harness.common.machine",
    "metrics": "harness.results.metrics",
    "outcome": "harness.plan.outcome",
    "palette": "harness.results.palette",
    "paper": "harness.results.paper",
    "parent": "harness.common.parent",
    "plan": "harness.plan.plan",
    "plans": "harness.plan.saved_plans",
    "plugins": "harness.config.plugins",
    "pruning": "harness.jobdir.pruning",
    "record": "harness.results.records",
    "redact": "harness.common.redaction",
    "results": "harness.results.rows",
    "settings": "harness.config.settings",
    "sources": "harness.plan.source_changes",
    "space": "harness.plan.search_space",
    "spec": "harness.plan.cell",
    "stats": "harness.results.stats",
    "stopping": "harness.common.signals",
    "study": "harness.plan.study",
    "table": "harness.results.table",
    "views": "harness.cli.plan_text",
    "voice": "harness.common.console",
    "why": "harness.plan.explain",
}


class OldNames(MetaPathFinder, Loader):
    """Finds harness.core.X and answers with the very module that MOVED names, so that types and pickles agree."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for a name of MOVED, None for any other."""
        del path, target
        package, _, name = fullname.rpartition(".")
        return ModuleSpec(fullname, self) if package == __name__ and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module under its new name."""
        new = MOVED[spec.name.rpartition(".")[2]]
        warnings.warn(
            f"{spec.name} is now {new}; the old name will be removed in 0.3", DeprecationWarning, stacklevel=2
        )
        module = importlib.import_module(new)
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own spec back, which importing it by another name has replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


sys.meta_path.append(OldNames())
