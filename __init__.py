"""sd-debias: ComfyUI's entry.

ComfyUI imports this file under the pack's path as its name, and only ComfyUI does: pip's installation has a package's
name, and pytest the folder's.
"""
if "/" in __name__ or "\\" in __name__:
    from .nodes import comfy_entrypoint  # noqa: F401

    WEB_DIRECTORY = "./web"  # the nodes' help pages
