"""How clients reach the endpoint, and what it logs."""

from typing import Annotated

from pydantic import Field

from deploy.fields.container import MAX_TIMEOUT_S
from deploy.fields.types import BIGQUERY, NETWORK, Group, Projects, matching


class Endpoint(Group):
    """How clients reach the endpoint, and what it logs."""

    dedicated: bool = False
    """create a dedicated endpoint: requests of 10 MB instead of 1.5 MB, and of 10 minutes instead of 60 s"""
    psc_projects: Projects = Field(default_factory=list)
    """create a private endpoint, which these projects reach by Private Service Connect"""
    psc_network: Annotated[
        str, matching(rf"{NETWORK}|", "projects/PROJECT/global/networks/NETWORK")
    ] = ""
    """with psc_projects: network in which Google creates the address of the private endpoint"""
    network: Annotated[
        str,
        matching(
            r"projects/[0-9]+/global/networks/[a-z0-9-]+|",
            "projects/PROJECT_NUMBER/global/networks/NETWORK",
        ),
    ] = ""
    """create a private endpoint that is peered with this VPC network; it can serve one version only"""
    inference_timeout_s: Annotated[int, Field(ge=0, le=MAX_TIMEOUT_S)] = 0
    """seconds that a dedicated or private endpoint waits for a response; 0: RESPONSE_TIMEOUT_S + 10, or 600"""
    request_log_percent: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 0.0
    """percentage of the requests and responses that are logged to BigQuery"""
    request_log_table: Annotated[
        str,
        matching(
            rf"bq://{BIGQUERY}(\.[A-Za-z0-9_]{{1,1024}}(\.[A-Za-z0-9_-]{{1,1024}})?)?|",
            "bq://PROJECT, bq://PROJECT.DATASET or bq://PROJECT.DATASET.TABLE",
        ),
    ] = ""
    """table in BigQuery for these logs; empty: a new table in this project"""
