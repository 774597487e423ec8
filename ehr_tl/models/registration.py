"""Lets `transformers.AutoModel` and `AutoConfig` open our checkpoints once `ehr_tl` was imported.

`transformers` has no entry points for that, only `AutoConfig.register`, and to import it with the package would take
seconds. So a stand-in for `EhrConfig` is registered when the module of `AutoConfig` has been imported, now or later, by
whomever; the network, and with it torch, is imported when a checkpoint of ours is opened.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_AUTO_CONFIG = "transformers.models.auto.configuration_auto"
_MODEL_TYPE = "ehr_tl"


class _EhrConfig:
    """Stands in for `EhrConfig`, which takes its place when the network is imported."""

    def __new__(cls, **settings: Any) -> Any:
        return cls._real()(**settings)

    @classmethod
    def from_dict(cls, settings: dict[str, Any], **others: Any) -> Any:
        return cls._real().from_dict(settings, **others)

    @staticmethod
    def _real() -> type:
        from ehr_tl.models.network import EhrConfig

        return EhrConfig


class _Finder:
    """Finds the module of `AutoConfig` as the others do, and registers the stand-in once it is there."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != _AUTO_CONFIG:
            return None
        others = (each.find_spec(name, path, target) for each in sys.meta_path if each is not self)
        spec = next(filter(None, others), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register
        return spec


def _register(auto: ModuleType) -> None:
    auto.AutoConfig.register(_MODEL_TYPE, _EhrConfig, exist_ok=True)


def register_with_transformers() -> None:
    """Registers our type of model now, or when `transformers` is first asked for one; imports nothing."""
    auto = sys.modules.get(_AUTO_CONFIG)
    if auto is None:
        sys.meta_path.insert(0, _Finder())
    else:
        _register(auto)
