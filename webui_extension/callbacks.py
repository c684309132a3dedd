"""Registration with the host, each time it loads the shim."""
from __future__ import annotations

from . import host_a1111


def register() -> None:
    from modules import script_callbacks

    from . import forge_demo, settings, xyz
    host_a1111.register()
    forge_demo.register()
    settings.register()  # at once: without a page the host has no callback for settings, but an API that changes them
    script_callbacks.on_ui_settings(settings.register)
    xyz.register()  # at once where the plot is loaded: without a page its arguments are read before the callback
    script_callbacks.on_before_ui(xyz.register)
    script_callbacks.on_app_started(routes)


def routes(_demo, app) -> None:
    from . import reports  # needs fastapi, which nothing else does
    reports.register(app)
