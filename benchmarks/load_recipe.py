"""Import a recipe by its path: method folders have hyphens, so they are no packages, on purpose."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def load_recipe(path: str) -> ModuleType:
    """The script at `path` below the root of the repository, as a module; it finds the files beside it."""
    name = Path(path).stem
    if name not in sys.modules:
        folder = str((ROOT / path).parent)
        if folder not in sys.path:
            sys.path.append(folder)
        spec = importlib.util.spec_from_file_location(name, ROOT / path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up
        spec.loader.exec_module(module)
    return sys.modules[name]
