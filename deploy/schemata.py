"""The schemas of a model's instances, parameters and predictions, uploaded beside its artifacts."""

import json
import zipfile

import yaml

from deploy.clients import CloudClients
from deploy.errors import UserError

SCHEMA = "schema.json"
"""The file in an archive of this project."""
FOLDER = "schema"
"""The folder in `artifact_uri` for the YAML files."""
KINDS = ("instance", "parameters", "prediction")


def upload_schemata(cloud: CloudClients) -> dict[str, str]:
    """Upload a YAML file for each schema; return the fields of PredictSchemata.

    They are empty without an artifact folder, for an archive without schemas, and for a folder with an archive of
    its own. A failed upload is reported: a model needs no schema.
    """
    folder, archive = cloud.settings.artifact_uri.rstrip("/"), cloud.settings.sources.archive
    if not folder or not archive.is_file():
        return {}
    with zipfile.ZipFile(archive) as contents:
        if SCHEMA not in contents.namelist():
            return {}
        schemas = json.loads(contents.read(SCHEMA))
    fields = {}
    try:
        if any(name.endswith(".mar") for name in cloud.storage.list_objects(f"{folder}/")):
            return {}
        for kind in KINDS:
            uri = f"{folder}/{FOLDER}/{kind}.yaml"
            cloud.storage.write_object(uri, yaml.safe_dump(schemas[kind], sort_keys=False))
            fields[f"{kind}SchemaUri"] = uri
    except UserError as error:
        cloud.report(f"the model is uploaded without schemas: {error.message}")
        return {}
    return fields
