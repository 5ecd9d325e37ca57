"""How clients reach the endpoint."""

from deploy.fields.types import Group


class Endpoint(Group):
    """How clients reach the endpoint."""

    dedicated: bool = False
    """create a dedicated endpoint: requests of 10 MB instead of 1.5 MB, and of 10 minutes instead of 60 s"""
