"""sd-debias: ComfyUI's entry.

ComfyUI has loaded its API when it imports this file. Elsewhere it is no part of what is used: pip's installation is one
of `core`, and pytest imports it by the folder's name, without a package.
"""
import sys

if __package__ and "comfy_api.latest" in sys.modules:
    from .nodes import comfy_entrypoint  # noqa: F401

    WEB_DIRECTORY = "./web"  # the nodes' help pages
    if "comfy.nodes.vanilla_node_importing" in sys.modules:
        # The installable fork takes the entry above too, but calls it an error where this is missing. ComfyUI itself
        # would look no further than this.
        NODE_CLASS_MAPPINGS: dict = {}
