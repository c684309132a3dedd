"""Audits: pictures of a model or a folder, labelled, looked at and corrected, and the check of what labels them."""
