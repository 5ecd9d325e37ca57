"""The same story as a Python program of a user's: the real google-cloud-aiplatform, nothing else."""

import argparse
import json
from pathlib import Path

from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform


def main() -> None:
    """Upload, deploy, predict, shift the traffic to a second version, and delete all of it."""
    parser = argparse.ArgumentParser(prog="python -m rehearsal.sdk", description=__doc__)
    parser.add_argument("image")
    parser.add_argument("--api-endpoint", required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--request", type=Path, required=True)
    args = parser.parse_args()
    aiplatform.init(
        project=args.project,
        location="us-central1",
        api_endpoint=args.api_endpoint,
        api_transport="rest",
        credentials=AnonymousCredentials(),
    )
    request = json.loads(args.request.read_text())
    routes = {
        "serving_container_image_uri": args.image,
        "serving_container_ports": [7080],
        "serving_container_health_route": "/health",
        "serving_container_predict_route": "/predict",
    }
    machine = {"machine_type": "e2-standard-2", "min_replica_count": 1, "max_replica_count": 1}
    first = aiplatform.Model.upload(display_name="sdk", model_id="sdk", **routes)
    endpoint = aiplatform.Endpoint.create("sdk")
    first.deploy(endpoint, **machine)
    print("predictions:", endpoint.predict(**request).predictions)
    second = aiplatform.Model.upload(
        display_name="sdk", parent_model=first.resource_name, is_default_version=False, **routes
    )
    second.deploy(endpoint, traffic_percentage=20, **machine)
    asked = [endpoint.predict(**request).model_version_id for _ in range(20)]
    print("of 20 requests, version 2 answered", asked.count("2"))
    ids = {each.model_version_id: each.id for each in endpoint.list_models()}
    endpoint.update(traffic_split={ids["1"]: 0, ids["2"]: 100})
    endpoint.undeploy(ids["1"])
    versions = [v.version_id for v in aiplatform.models.ModelRegistry("sdk").list_versions()]
    print("traffic:", endpoint.traffic_split, "versions:", versions)
    endpoint.delete(force=True)
    second.delete()
    endpoints = aiplatform.Endpoint.list(filter='display_name="sdk"')
    models = aiplatform.Model.list(filter='display_name="sdk"')
    print("left:", len(endpoints), "endpoints,", len(models), "models")


if __name__ == "__main__":
    main()
