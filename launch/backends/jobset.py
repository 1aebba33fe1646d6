"""Kubernetes: a JobSet for kubectl, as GKE has it, or xpk's command on clusters that xpk made."""

from __future__ import annotations

import json
from typing import Any

import yaml

from launch.options import settings
from launch.plan import RESTART, Command, Plan, environment, over_ray, quote, refuse, t2p
from launch.spec import JobSpec
from t2p.io import UserError, is_remote

_JOB = "job"  # the one replicated job; its pods are NAME-job-SLICE-HOST
_PORT = 8476
_KEPT = 24 * 3600  # seconds that a finished JobSet stays to be looked at


def jobset(spec: JobSpec) -> Plan:
    """kubectl apply, reading the manifest; or xpk workload create where the options name xpk's cluster."""
    refuse(spec, "jobset", ("cpu", "gpu", "tpu"), arrays=True, ray=True, spot=True)
    own = settings("jobset", spec.options)
    mount = own["claim"].partition(":")[2]
    if not (is_remote(spec.workdir) or (mount and spec.workdir.startswith(f"{mount.rstrip('/')}/"))):
        raise UserError(f"workdir {spec.workdir} would go with the pod; name gs://... or a folder of --option claim")
    if spec.topology and not spec.topology.gke:
        raise UserError(f"GKE has no nodes with {spec.accelerator}")
    if own["xpk"]:
        refuse(spec, "jobset with xpk", ("tpu",))
        return _xpk(spec, own)
    space = ("-n", own["namespace"]) if own["namespace"] else ()
    manifest = yaml.safe_dump(_manifest(spec, own), sort_keys=False, allow_unicode=True, width=1000)
    advice = (
        f"watch it: {quote(('kubectl', 'get', *space, 'jobset', spec.name))}",
        f"its log: {quote(('kubectl', 'logs', *space, '-f', f'job/{spec.name}-{_JOB}-0'))}",
        f"stop it, or clear a finished one away: {quote(('kubectl', 'delete', *space, 'jobset', spec.name))}",
    )
    return Plan((Command(("kubectl", "apply", *space, "-f", "-"), manifest),), (), advice)


def plain(text: str) -> str:
    """Text that Kubernetes is not to expand: it reads $(NAME) in commands and values, and $$ as one $."""
    return text.replace("$", "$$")


def _manifest(spec: JobSpec, own: dict[str, str]) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": spec.name}
    if own["queue"]:
        metadata["labels"] = {"kueue.x-k8s.io/queue-name": own["queue"]}
    if spec.platform == "tpu" and spec.topology and spec.topology.hosts > 1:  # a slice is a node pool
        metadata["annotations"] = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
    policy = {"maxRestarts": 0 if spec.shards > 1 else spec.retries}
    rules = [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    job = {
        "name": _JOB,
        "replicas": spec.slices if spec.platform == "tpu" else 1,
        "template": {"spec": _job(spec, own)},
    }
    body = {"ttlSecondsAfterFinished": _KEPT, "failurePolicy": {**policy, "rules": rules}, "replicatedJobs": [job]}
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": metadata, "spec": body}


def _job(spec: JobSpec, own: dict[str, str]) -> dict[str, Any]:
    """Hosts of a group fail together and are started again together; the parts of an array each by themselves. An
    exit code that no restart helps fails all at once (of an array: its own part)."""
    if spec.shards > 1:
        count, disrupted, failed = spec.shards, "Ignore", "FailIndex"
        limits = {"backoffLimitPerIndex": spec.retries}
    else:
        count = spec.topology.hosts if spec.platform == "tpu" and spec.topology else spec.hosts
        disrupted, failed, limits = "Count", "FailJob", {"backoffLimit": 0}
    codes = {"containerName": "t2p", "operator": "NotIn", "values": list(RESTART)}
    rules = [
        {"action": disrupted, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": failed, "onExitCodes": codes},
    ]
    return {
        "parallelism": count,
        "completions": count,
        "completionMode": "Indexed",
        **limits,
        "podFailurePolicy": {"rules": rules},
        "template": {"spec": _pod(spec, own)},
    }


def _pod(spec: JobSpec, own: dict[str, str]) -> dict[str, Any]:
    """The workers of the data loader share memory, of which a pod has 64 MB by itself."""
    volumes: list[dict[str, Any]] = [{"name": "memory", "emptyDir": {"medium": "Memory"}}]
    mounts = [{"name": "memory", "mountPath": "/dev/shm"}]
    if own["claim"]:
        claim, _, path = own["claim"].partition(":")
        volumes.append({"name": "data", "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": "data", "mountPath": path})
    pod: dict[str, Any] = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 120}
    if own["service_account"]:
        pod["serviceAccountName"] = own["service_account"]
    if spec.platform == "tpu":
        pod |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    if selector := _selector(spec, own):
        pod["nodeSelector"] = selector
    if tolerations := _tolerations(spec):
        pod["tolerations"] = tolerations
    return {**pod, "containers": [{**_container(spec, own), "volumeMounts": mounts}], "volumes": volumes}


def _selector(spec: JobSpec, own: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if spec.topology and spec.platform == "tpu":
        found["cloud.google.com/gke-tpu-accelerator"] = spec.topology.gke
        found["cloud.google.com/gke-tpu-topology"] = spec.topology.grid
    elif spec.topology:
        found["cloud.google.com/gke-accelerator"] = spec.topology.gke
    if spec.spot:
        found["cloud.google.com/gke-spot"] = "true"
    more = (pair.partition("=") for pair in own["selector"].split(",") if pair)
    return {**found, **{key: value for key, _, value in more}}


def _tolerations(spec: JobSpec) -> list[dict[str, str]]:
    keys = {"tpu": ["google.com/tpu"], "gpu": ["nvidia.com/gpu"], "cpu": []}[spec.platform]
    keys += ["cloud.google.com/gke-spot"] if spec.spot else []
    return [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in keys]


def _container(spec: JobSpec, own: dict[str, str]) -> dict[str, Any]:
    argv = over_ray(spec, f"{_first(spec)}:6379", t2p(spec, "$JOB_COMPLETION_INDEX"))
    command = ["bash", "-c", f"exec {quote(argv)}"] if spec.shards > 1 else list(argv)
    resources: dict[str, Any] = {}
    if devices := _devices(spec):
        resources["limits"] = devices
    asked = {name: own[key] for name, key in (("cpu", "cpus"), ("memory", "memory")) if own[key]}
    if asked:
        resources["requests"] = asked
    container = {"name": "t2p", "image": own["image"], "command": [plain(c) for c in command], "env": _env(spec, own)}
    return container | ({"resources": resources} if resources else {})


def _devices(spec: JobSpec) -> dict[str, int]:
    """Chips of a pod, which has a host to itself."""
    if not spec.topology:
        return {}
    chips = spec.topology.per_host // spec.topology.accelerator.devices
    return {"google.com/tpu" if spec.platform == "tpu" else "nvidia.com/gpu": chips}


def _env(spec: JobSpec, own: dict[str, str]) -> list[dict[str, Any]]:
    """TPU hosts find each other by what GKE sets; others by JAX's variables."""
    group: dict[str, str] = {}
    number: list[dict[str, Any]] = []
    if spec.platform != "tpu" and spec.hosts > 1 and spec.command == "train":
        group = {"JAX_COORDINATOR_ADDRESS": f"{_first(spec)}:{_PORT}", "JAX_NUM_PROCESSES": str(spec.hosts)}
        path = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
        number = [{"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": path}}}]
    values = [{"name": name, "value": plain(value)} for name, value in environment(spec, group).items()]
    secrets = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": own["secret"], "key": name}}} for name in spec.secrets
    ]
    return values + number + secrets


def _first(spec: JobSpec) -> str:
    """The address of the first pod, as JobSet makes it."""
    return f"{spec.name}-{_JOB}-0-0.{spec.name}"


def _xpk(spec: JobSpec, own: dict[str, str]) -> Plan:
    """xpk writes the values between double quotes of its own manifest, and restarts after 42 by itself."""
    if spec.secrets:
        raise UserError(f"xpk would write {', '.join(spec.secrets)} into its manifest; leave out --option xpk")
    variables = environment(spec)
    for name, value in variables.items():
        if json.dumps(value) != f'"{value}"':
            raise UserError(f"xpk cannot pass {name}={value}: it holds a quote, a backslash or a letter beyond ASCII")
    assert spec.topology  # of a TPU
    kind = spec.topology.kind
    if not spec.topology.usual:
        kind = f"{kind.rpartition('-')[0]}-{spec.topology.grid}"
    place = [f"--{name}={own[name]}" for name in ("project", "zone") if own[name]]
    create = [f"--cluster={own['xpk']}", *place, f"--workload={spec.name}", f"--tpu-type={kind}"]
    create += [f"--num-slices={spec.slices}", f"--docker-image={own['image']}", f"--max-restarts={spec.retries}"]
    create += [f"--env={name}={plain(value)}" for name, value in variables.items()]
    create += ["--termination-grace-period-seconds=120", f"--command=exec {plain(quote(t2p(spec)))}"]
    advice = (
        f"stop it: {quote(('xpk', 'workload', 'delete', '--workload', spec.name, '--cluster', own['xpk'], *place))}"
    )
    return Plan((Command(("xpk", "workload", "create", *create)),), (), (advice,))
