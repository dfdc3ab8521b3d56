"""What can keep the host from starting, and how an invocation ends early.

DevHostError            the host cannot start; the message names what to change
├── AppLoadError        the app: its file, its functions or their bindings
├── SettingsError       host.json, local.settings.json or an app setting
└── AddressError        the address to listen on is taken or not ours
FunctionTimeoutError    a function ran longer than host.json `functionTimeout`
"""


class DevHostError(Exception):
    """The host cannot start; the message names what to change."""


class AppLoadError(DevHostError):
    """The app cannot be served; the message says what its author has to change."""


class SettingsError(DevHostError):
    """A setting is missing or malformed; the message names it and the form expected."""


class AddressError(DevHostError):
    """The address to listen on cannot be bound."""


class FunctionTimeoutError(Exception):
    """A function ran longer than host.json `functionTimeout` allows."""
