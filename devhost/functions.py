"""Loads an unchanged `function_app.py` (v2 programming model) and lists its functions."""

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import azure.functions as func

from devhost.errors import AppLoadError

# The file the Python worker looks for (azure.functions.decorators.core.SCRIPT_FILE_NAME).
APP_FILE = "function_app.py"
APP_MODULE = "function_app"


@dataclass(frozen=True, slots=True)
class AppFunction:
    """One function of the app: its name, its trigger and the code to call.

    `kind` is the trigger's binding type as it stands in function.json, such as `httpTrigger` or
    `orchestrationTrigger`. `bindings` holds every binding in declaration order, the trigger included.
    """

    name: str
    kind: str
    trigger: Any
    bindings: tuple[Any, ...]
    user_function: Callable[..., Any]
    is_async: bool


def load_functions(app_dir: Path) -> list[AppFunction]:
    """Import `function_app.py` from `app_dir` and return its functions in declaration order.

    Raises AppLoadError when the file is missing, does not import, holds no app object or more than one,
    or when its functions are not valid (no trigger, a name used twice). The app is indexed exactly once:
    `get_functions()` of the SDK refuses a second call on the same app object.
    """
    app = _app_object(_import_app(app_dir))
    try:
        indexed = app.get_functions()
    except ValueError as error:
        raise AppLoadError(f"{APP_FILE}: {error}") from error
    functions = [_app_function(function) for function in indexed]
    if not functions:
        raise AppLoadError(f"{APP_FILE}: the app registers no function")
    _refuse_duplicates(functions)
    return functions


def _import_app(app_dir: Path) -> Any:
    path = (app_dir / APP_FILE).resolve()
    if not path.is_file():
        raise AppLoadError(f"no {APP_FILE} in {path.parent}")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(APP_MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[APP_MODULE] = module  # the name under which the real worker imports it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[APP_MODULE]
        raise AppLoadError(f"{path} does not import:\n{_app_traceback(error)}") from error
    return module


def _app_traceback(error: Exception) -> str:
    """The traceback from the app's own first line on; the import machinery above it is noise."""
    frames = traceback.extract_tb(error.__traceback__)
    first = next((i for i, frame in enumerate(frames) if frame.filename.endswith(APP_FILE)), 0)
    lines = traceback.format_list(frames[first:]) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _app_object(module: Any) -> func.FunctionRegister:
    apps = {id(value): value for value in vars(module).values() if isinstance(value, func.FunctionRegister)}
    if not apps:
        raise AppLoadError(f"{APP_FILE} has no app object: expected e.g. `app = func.FunctionApp()`")
    if len(apps) > 1:
        raise AppLoadError(f"{APP_FILE} has {len(apps)} app objects: the worker accepts exactly one")
    return next(iter(apps.values()))


def _app_function(function: Any) -> AppFunction:
    if function.get_setting("retry_policy") is not None:
        raise AppLoadError(
            f"function {function.get_function_name()!r}: retry policies are not supported here"
        )
    user_function = function.get_user_function()
    trigger = function.get_trigger()
    return AppFunction(
        name=function.get_function_name(),
        kind=trigger.type,
        trigger=trigger,
        bindings=tuple(function.get_bindings()),
        user_function=user_function,
        is_async=inspect.iscoroutinefunction(user_function),
    )


def _refuse_duplicates(functions: list[AppFunction]) -> None:
    """Function names are case-insensitive in the Functions host; the SDK only compares them exactly."""
    seen: dict[str, str] = {}
    for function in functions:
        earlier = seen.setdefault(function.name.lower(), function.name)
        if earlier is not function.name:
            raise AppLoadError(f"{APP_FILE}: two functions are named {function.name!r} (case does not count)")
