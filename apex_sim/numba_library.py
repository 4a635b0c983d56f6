"""How does Numba make machine code of the engine?  In one pass of optimisation at level 1, and of roots only.

Numba optimises each function in three passes at level 3, makes machine code of it, and keeps that on disk, even if only
other compiled functions call it.  The engine is as fast without, and compiles in two thirds of the time.
"""

from __future__ import annotations

from typing import Any, Final

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

_LEVEL: Final = 1


class _Library(JITCodeLibrary):
    """Code of one function with all that it calls, optimised once."""

    def _optimize_functions(self, ll_module: Any) -> None:
        ll_module.data_layout = self._codegen._data_layout

    def _optimize_final_module(self) -> None:
        passes, builder = self._codegen._module_pass_manager(opt=_LEVEL)
        passes.run(self._final_module, builder)


class _PartLibrary(_Library):
    """Code that is linked into other libraries and never run by itself."""

    def finalize(self) -> None:
        """Link what the function calls, and optimise; as `CPUCodeLibrary.finalize` but for the machine code."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._reload_init.update(library._reload_init)
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._optimize_final_module()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Return 0, for there is none: Python cannot call the function."""
        self._ensure_finalized()
        return 0

    @property
    def codegen(self) -> Any:
        """Who would tell running code its environment: nothing runs."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Tell nobody."""


class RootCompiler(Compiler):
    """Numba's compiler, for functions that Python calls."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        if library is None:
            library = _Library(target_context.codegen(), f"root-{id(self)}")
            library.enable_object_caching()
        super().__init__(typing_context, target_context, library, *rest)


class PartCompiler(Compiler):
    """Numba's compiler, for functions that only other compiled functions call."""

    def __init__(self, typing_context: Any, target_context: Any, library: Any, *rest: Any) -> None:
        if library is None:
            library = _PartLibrary(target_context.codegen(), f"part-{id(self)}")
        super().__init__(typing_context, target_context, library, *rest)
