"""The JSON of Vertex AI's resources for what the settings describe, and back.

As in Google's responses, empty values are left out, and integers of 64 bits are texts.
"""

from datetime import datetime
from typing import Any

from deploy.batch_request import BatchRequest
from deploy.endpoint_config import DEFAULT_LABELS, EndpointConfig
from deploy.fields.container import Probe
from deploy.gcp.client import Json
from deploy.plan import DeployedModel, Machine, Replicas
from deploy.settings import Settings

METRIC = "aiplatform.googleapis.com/prediction/online"
CPU_METRIC, GPU_METRIC = f"{METRIC}/cpu/utilization", f"{METRIC}/accelerator/duty_cycle"
REQUESTS_METRIC = f"{METRIC}/request_count"
DEFAULT_PERCENT = 60
"""Google's target if an autoscaling metric is not set."""
RESERVATION_KEY = "compute.googleapis.com/reservation-name"
ANY_RESERVATION, SPECIFIC_RESERVATION = "ANY_RESERVATION", "SPECIFIC_RESERVATION"
UNKNOWN_MINUTES = -1
"""v1 does not return after which time a deployed model scales to zero."""
CONTAINER_FIELDS = (
    *("imageUri", "ports", "healthRoute", "predictRoute", "env", "sharedMemorySizeMb"),
    *("deploymentTimeout", "startupProbe", "healthProbe", "livenessProbe"),
)
"""What `container_spec` sets."""


def _set(**fields: Any) -> Json:
    """Return the fields that are not empty."""
    return {name: value for name, value in fields.items() if value}


def _seconds(seconds: int) -> str:
    return f"{seconds}s" if seconds else ""


# The model


def container_spec(settings: Settings, image: str) -> Json:
    """Return how Vertex AI runs an image."""
    return _set(
        imageUri=image,
        ports=[{"containerPort": settings.port}],
        healthRoute=settings.health_route,
        predictRoute=settings.predict_route,
        env=[{"name": name, "value": value} for name, value in sorted(settings.env.items())],
        sharedMemorySizeMb=str(settings.shared_memory_mb or ""),
        deploymentTimeout=_seconds(settings.deployment_timeout_minutes * 60),
        startupProbe=_probe(settings.startup_probe, settings.port),
        healthProbe=_probe(settings.health_probe, settings.port),
        livenessProbe=_probe(settings.liveness_probe, settings.port),
    )


def model(settings: Settings, image: str, labels: dict[str, str]) -> Json:
    """Return a version of the model to upload."""
    return _set(
        displayName=settings.name,
        labels={**settings.labels, **labels},
        containerSpec=container_spec(settings, image),
        artifactUri=settings.artifact_uri,
        encryptionSpec=_encryption_spec(settings),
    )


def _encryption_spec(settings: Settings) -> Json:
    return _set(kmsKeyName=settings.kms_key)


def _probe(probe: Probe | None, port: int) -> Json:
    if probe is None:
        return {}
    return _set(
        exec=_set(command=probe.command),
        httpGet={"path": probe.path, "port": port} if probe.path else {},
        periodSeconds=probe.period_s,
        timeoutSeconds=probe.timeout_s,
        failureThreshold=probe.failures,
        initialDelaySeconds=probe.delay_s,
    )


# The endpoint


def endpoint(settings: Settings, config: EndpointConfig) -> Json:
    """Return a new endpoint."""
    private: Json = {}
    if config.kind == "psc":
        private = _set(
            enablePrivateServiceConnect=True,
            projectAllowlist=settings.psc_projects,
            pscAutomationConfigs=[
                {"projectId": project, "network": settings.psc_network}
                for project in settings.psc_projects
                if settings.psc_network
            ],
        )
    return _set(
        displayName=settings.name,
        labels={**config.labels, **DEFAULT_LABELS},
        dedicatedEndpointEnabled=config.kind == "dedicated",
        network=config.network,
        privateServiceConnectConfig=private,
        encryptionSpec=_encryption_spec(settings),
        clientConnectionConfig=connection_config(config),
        predictRequestResponseLoggingConfig=(
            logging_config(settings, config) if config.log_percent else {}
        ),
    )


def connection_config(config: EndpointConfig) -> Json:
    """Return how long an endpoint waits; nothing for Google's default."""
    return _set(inferenceTimeout=_seconds(config.timeout_s))


def logging_config(settings: Settings, config: EndpointConfig) -> Json:
    """Return which requests are logged, and where."""
    if not config.log_percent:
        return {"enabled": False}
    table = config.log_table or f"bq://{settings.project}"
    return {
        "enabled": True,
        "samplingRate": config.log_percent / 100,
        "bigqueryDestination": {"outputUri": table},
    }


def read_config(content: Json) -> EndpointConfig:
    """Return the configuration of an endpoint at Google."""
    private = content.get("privateServiceConnectConfig", {})
    logging = content.get("predictRequestResponseLoggingConfig", {})
    timeout = content.get("clientConnectionConfig", {}).get("inferenceTimeout", "0s")
    kind = "dedicated" if content.get("dedicatedEndpointEnabled") else "shared"
    if content.get("network"):
        kind = "peered"
    elif private.get("enablePrivateServiceConnect"):
        kind = "psc"
    rate = logging.get("samplingRate", 0) if logging.get("enabled") else 0
    return EndpointConfig(
        kind=kind,
        projects=frozenset(private.get("projectAllowlist", ())),
        network=content.get("network", ""),
        kms_key=content.get("encryptionSpec", {}).get("kmsKeyName", ""),
        timeout_s=round(float(timeout.removesuffix("s"))),
        log_percent=round(rate * 100, 4),
        log_table=logging.get("bigqueryDestination", {}).get("outputUri", ""),
        labels=content.get("labels", {}),
        etag=content.get("etag", ""),
        service_attachment=private.get("serviceAttachment", ""),
    )


# A deployed model


def deployed_model(settings: Settings, version: str, replaced_id: str = "") -> Json:
    """Return a version to deploy, which takes over the machines of the model with `replaced_id`, if given."""
    s = settings
    rollout = {
        "previousDeployedModel": replaced_id,
        "maxSurgeReplicas": s.max_surge,
        "maxUnavailableReplicas": s.max_unavailable,
    }
    return _set(
        model=f"{s.model}@{version}",
        displayName=f"{s.name}-{version}",
        serviceAccount=s.service_account,
        disableContainerLogging=not s.container_logging,
        enableAccessLogging=s.access_logging,
        dedicatedResources={} if replaced_id else resources(s.machine, s.replicas),
        rolloutOptions=rollout if replaced_id else {},
    )


def resources(machine: Machine, replicas: Replicas) -> Json:
    """Return the machines of a deployed model, their number and their scaling targets."""
    targets = {
        CPU_METRIC: replicas.cpu_percent,
        GPU_METRIC: replicas.gpu_percent,
        REQUESTS_METRIC: replicas.requests_per_minute,
    }
    content = _set(
        machineSpec=machine_spec(machine),
        minReplicaCount=replicas.minimum,
        maxReplicaCount=replicas.maximum,
        autoscalingMetricSpecs=[
            {"metricName": name, "target": target} for name, target in targets.items() if target
        ],
        spot=machine.spot,
    )
    if not replicas.minimum:
        content["initialReplicaCount"] = 1
        content["scaleToZeroSpec"] = {
            "idleScaledownPeriod": _seconds(machine.idle_minutes * 60),
            "minScaleupPeriod": _seconds(machine.min_up_minutes * 60),
        }
    return content


def machine_spec(machine: Machine) -> Json:
    """Return the machine of a replica."""
    affinity: Json = {}
    if machine.reservation == "any":
        affinity = {"reservationAffinityType": ANY_RESERVATION}
    elif machine.reservation:
        affinity = {
            "reservationAffinityType": SPECIFIC_RESERVATION,
            "key": RESERVATION_KEY,
            "values": [machine.reservation],
        }
    return _set(
        machineType=machine.type,
        acceleratorType=machine.accelerator_type,
        acceleratorCount=machine.accelerator_count,
        gpuPartitionSize=machine.gpu_partition_size,
        reservationAffinity=affinity,
    )


def read_deployed_models(content: Json) -> tuple[DeployedModel, ...]:
    """Return the deployed models of an endpoint at Google."""
    return tuple(map(_read_deployed_model, content.get("deployedModels", ())))


def _read_deployed_model(deployed: Json) -> DeployedModel:
    own = deployed.get("dedicatedResources", {})
    targets = {
        metric["metricName"]: metric.get("target", DEFAULT_PERCENT)
        for metric in own.get("autoscalingMetricSpecs", ())
    }
    machine = _read_machine(deployed)
    name, _, version = deployed["model"].partition("@")
    created = deployed.get("createTime", "")
    return DeployedModel(
        id=deployed["id"],
        version=deployed.get("modelVersionId") or version or "1",
        machine=machine,
        replicas=Replicas(
            own.get("minReplicaCount", 0),
            own.get("maxReplicaCount", 0),
            targets.get(CPU_METRIC, DEFAULT_PERCENT),
            gpu_percent=targets.get(GPU_METRIC, DEFAULT_PERCENT)
            if machine.accelerator_count
            else 0,
            requests_per_minute=targets.get(REQUESTS_METRIC, 0),
            container_logging=not deployed.get("disableContainerLogging"),
        ),
        # Of one length, so that texts are in the order of time.
        since=datetime.fromisoformat(created).isoformat(timespec="microseconds") if created else "",
        model_name=name.rpartition("/")[2],
    )


def _read_machine(deployed: Json) -> Machine:
    own = deployed.get("dedicatedResources", {})
    spec, scaling = own.get("machineSpec", {}), own.get("scaleToZeroSpec", {})
    affinity = spec.get("reservationAffinity", {})
    kind = affinity.get("reservationAffinityType")
    unknown_s = 60 * (0 if own.get("minReplicaCount") else UNKNOWN_MINUTES)
    idle, up = (
        round(float(scaling.get(name, f"{unknown_s}s").removesuffix("s")) / 60)
        for name in ("idleScaledownPeriod", "minScaleupPeriod")
    )
    return Machine(
        spec.get("machineType", ""),
        spec.get("acceleratorType", "") if spec.get("acceleratorCount") else "",
        spec.get("acceleratorCount", 0),
        deployed.get("serviceAccount", ""),
        spot=own.get("spot", False),
        reservation=next(
            iter(affinity.get("values", ())), "any" if kind == ANY_RESERVATION else ""
        ),
        access_logging=deployed.get("enableAccessLogging", False),
        idle_minutes=idle,
        min_up_minutes=up,
        gpu_partition_size=spec.get("gpuPartitionSize", ""),
    )


# A batch prediction job


def batch_job(settings: Settings, batch: BatchRequest, display_name: str) -> Json:
    """Return a batch prediction job to start."""
    s = settings
    source: Json = {"gcsSource": {"uris": list(batch.sources)}}
    if batch.input_format == "bigquery":
        source = {"bigquerySource": {"inputUri": batch.sources[0]}}
    target: Json = {"gcsDestination": {"outputUriPrefix": batch.output}}
    if batch.output_format == "bigquery":
        target = {"bigqueryDestination": {"outputUri": batch.output}}
    return _set(
        displayName=display_name,
        model=f"{s.model}@{batch.version}",
        inputConfig={"instancesFormat": batch.input_format, **source},
        instanceConfig=_set(
            instanceType=batch.instance_type,
            keyField=batch.key_field,
            includedFields=list(batch.included_fields),
            excludedFields=list(batch.excluded_fields),
        ),
        modelParameters=batch.parameters,
        outputConfig={"predictionsFormat": batch.output_format, **target},
        dedicatedResources={
            "machineSpec": machine_spec(s.machine),
            "startingReplicaCount": batch.replicas,
            "maxReplicaCount": batch.replicas,
        },
        manualBatchTuningParameters=_set(batchSize=batch.batch_size),
        serviceAccount=s.service_account,
        labels={**s.labels, **DEFAULT_LABELS},
        encryptionSpec=_encryption_spec(s),
        disableContainerLogging=not s.container_logging,
    )
