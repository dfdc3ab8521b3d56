"""How to call one function: its parameters checked and its converters chosen, as the Python worker does.

The rules are those of Microsoft's worker (azure-functions-runtime): every parameter has a binding and every
binding a parameter, annotations fit the binding, `str` and `bytes` annotations get the raw payload, and
`context` gets the invocation context. What this host cannot serve is refused here, when the app loads.
"""

import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import azure.functions as func
from azure.functions.meta import Datum

from devhost.errors import AppLoadError
from devhost.functions import AppFunction

IN, OUT = 0, 1  # azure.functions.decorators.core.BindingDirection
RETURN = "$return"
DURABLE_TRIGGERS = frozenset({"orchestrationTrigger", "activityTrigger", "entityTrigger"})
TRIGGERS = DURABLE_TRIGGERS | {
    "httpTrigger",
    "queueTrigger",
    "blobTrigger",
    "timerTrigger",
    "warmupTrigger",
}
INPUTS = frozenset({"durableClient", "blob"})
OUTPUTS = frozenset({"http", "queue", "blob"})


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a function and the binding that feeds it or takes its value.

    `raw` is set for `str` and `bytes` annotations: the payload is handed over without the SDK's converter.
    """

    name: str
    binding: Any
    annotation: Any
    raw: bool

    def decode(self, datum: Datum, metadata: Mapping[str, Datum] | None) -> Any:
        """The value the function gets for what the trigger or the input binding delivered."""
        if self.raw:
            return datum.value
        return converter(self.binding.type).decode(datum, trigger_metadata=metadata)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything needed to call a function and to deal with what it gives back."""

    function: AppFunction
    trigger: Parameter
    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    returned: Parameter | None
    implicit_return: bool
    wants_context: bool

    @property
    def name(self) -> str:
        return self.function.name

    @property
    def needs_durable(self) -> bool:
        """Whether the function can only run with the Durable engine behind it."""
        return self.function.kind in DURABLE_TRIGGERS or any(
            binding.type == "durableClient" for binding in self.function.bindings
        )


def converter(binding_type: str) -> Any:
    """The SDK's converter for a binding type."""
    return func.get_binding_registry().get(binding_type)


def uses_fastapi() -> bool:
    """Whether the loaded app imported the FastAPI extension, which switches all of its HTTP functions."""
    base = sys.modules.get("azurefunctions.extensions.base")
    return base is not None and base.HttpV2FeatureChecker.http_v2_enabled()


def plan_call(function: AppFunction) -> Plan:
    """Check `function` against its bindings; raises AppLoadError naming function and binding."""
    if function.kind not in TRIGGERS:
        raise _refusal(function, f"trigger type {function.kind!r} is not supported by this host")
    annotations = _annotations(function)
    parameters = dict(signature(function.user_function).parameters)
    bound = {binding.name: binding for binding in function.bindings if binding.name != RETURN}
    wants_context = "context" in parameters and "context" not in bound
    if wants_context:
        del parameters["context"]
    _check_names(function, set(parameters), set(bound))
    made = {name: _parameter(function, bound[name], annotations) for name in parameters}
    returned = next(
        (_returned(function, b, annotations) for b in function.bindings if b.name == RETURN), None
    )
    return Plan(
        function=function,
        trigger=made[function.trigger.name],
        inputs=tuple(p for p in made.values() if _is_input(p.binding, function)),
        outputs=tuple(p for p in made.values() if p.binding.direction == OUT),
        returned=returned,
        implicit_return=function.kind in DURABLE_TRIGGERS,
        wants_context=wants_context,
    )


def _refusal(function: AppFunction, reason: str) -> AppLoadError:
    return AppLoadError(f"function {function.name!r}: {reason}")


def _annotations(function: AppFunction) -> dict[str, Any]:
    try:
        return typing.get_type_hints(function.user_function)
    except TypeError:
        return {}  # a callable that is no function, such as the SDK's orchestrator handle
    except NameError as error:
        raise _refusal(function, f"an annotation does not resolve: {error}") from error


def _check_names(function: AppFunction, parameters: set[str], bound: set[str]) -> None:
    if parameters - bound:
        raise _refusal(function, f"no binding for the parameters {sorted(parameters - bound)}")
    if bound - parameters:
        raise _refusal(function, f"no parameter for the bindings {sorted(bound - parameters)}")


def _is_input(binding: Any, function: AppFunction) -> bool:
    return binding.direction == IN and binding is not function.trigger


def _parameter(function: AppFunction, binding: Any, annotations: dict[str, Any]) -> Parameter:
    if binding is not function.trigger:
        supported = INPUTS if binding.direction == IN else OUTPUTS
        if binding.type not in supported:
            way = "input" if binding.direction == IN else "output"
            raise _refusal(
                function, f"{way} binding {binding.name!r} of type {binding.type!r} is not supported"
            )
    annotation = annotations.get(binding.name)
    is_out = getattr(typing.get_origin(annotation) or annotation, "__name__", None) == "Out"
    if annotation is not None and is_out != (binding.direction == OUT):
        wanted = "azure.functions.Out[…]" if binding.direction == OUT else "not azure.functions.Out"
        raise _refusal(function, f"the annotation of {binding.name!r} must be {wanted}")
    if is_out:
        annotation = next(iter(typing.get_args(annotation)), None)
    raw = annotation in (str, bytes) and binding.type not in DURABLE_TRIGGERS
    if annotation is not None and not raw:
        _check_annotation(function, binding, annotation)
    return Parameter(binding.name, binding, annotation, raw)


def _check_annotation(function: AppFunction, binding: Any, annotation: Any) -> None:
    if binding.type == "httpTrigger" and uses_fastapi():
        base = sys.modules["azurefunctions.extensions.base"]
        fits = base.RequestTrackerMeta.check_type(annotation)
    elif binding.direction == OUT:
        fits = converter(binding.type).check_output_type_annotation(annotation)
    elif isinstance(annotation, type) or binding.type in DURABLE_TRIGGERS:
        fits = converter(binding.type).check_input_type_annotation(annotation)
    else:
        fits = False
    if not fits:
        shown = getattr(annotation, "__name__", annotation)
        raise _refusal(
            function, f"{binding.type} binding {binding.name!r} does not fit the annotation {shown}"
        )


def _returned(function: AppFunction, binding: Any, annotations: dict[str, Any]) -> Parameter:
    if binding.direction != OUT or binding.type not in OUTPUTS:
        raise _refusal(function, f"return binding of type {binding.type!r} is not supported")
    annotation = annotations.get("return")
    if annotation is not None and binding.type == "http" and uses_fastapi():
        base = sys.modules["azurefunctions.extensions.base"]
        fits = base.ResponseTrackerMeta.check_type(annotation)
    else:
        fits = annotation is None or (
            isinstance(annotation, type) and converter(binding.type).check_output_type_annotation(annotation)
        )
    if not fits:
        raise _refusal(
            function, f"the return annotation {annotation} does not fit its {binding.type} binding"
        )
    return Parameter(RETURN, binding, annotation, raw=False)
