"""cluster/kuberay: as Kubernetes and KubeRay want it, and closed to everybody else."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT, parse
from kuberay_checks import cluster_problems, job_problems
from kustomization import Document, apply, build, containers
from manifest_checks import problems, schema_problems
from ray_autoscaler import TIMED_OUT, from_kuberay, launched, most_of_workers

from cluster.check import class_problem
from raymc.runtime import connect
from raymc.runtime.connect import GROWS_TO

KUBERAY = ROOT / "cluster" / "kuberay"
OVERLAYS = ("base", "overlays/spot-gpu", "overlays/cpu-only")
OPTIONS = ("overlays/embedded-state", "overlays/mtls")
JOBS = sorted((KUBERAY / "jobs").glob("*.yaml"))
GPU_TRIAL = {"CPU": 1, "GPU": 1}
CLAIM = "PersistentVolumeClaim"


def secrets() -> set[tuple[str, str]]:
    """Return name and key of the secrets that cluster/README.md says how to make."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "cluster" / "README.md").read_text())
    made = re.findall(r"create secret generic (\S+) (.*)", text)
    return {(name, key) for name, rest in made for key in re.findall(r"--from-\w+=([\w-]+)=", rest)}


def one(documents: list[Document], kind: str) -> Document:
    (found,) = [each for each in documents if each["kind"] == kind]
    return found


def all_problems(documents: list[Document]) -> list[str]:
    return problems(documents, secrets()) or cluster_problems(one(documents, "RayCluster"))


@pytest.mark.slow
@pytest.mark.parametrize("overlay", OVERLAYS + OPTIONS)
def test_manifests_are_right(overlay: str) -> None:
    assert all_problems(build(KUBERAY / overlay)) == []


GROUP = "/spec/workerGroupSpecs/2"
POD = f"{GROUP}/template/spec"
CONTAINER = f"{POD}/containers/0"
HEAD = "/spec/headGroupSpec/template/spec/containers/0"
MLFLOW = "/spec/template/spec/containers/0"
REMOVED = object()


@pytest.mark.parametrize(
    ("kind", "path", "value", "found"),
    [
        ("RayCluster", "/spec/enableInTreeAutoscalling", True, "'enableInTreeAutoscalling' was"),
        ("RayCluster", "/spec/autoscalerOptions/idleTimeoutSeconds", "600", "of type 'integer'"),
        ("RayCluster", "/spec/autoscalerOptions/version", "v1", "doesn't scale by Ray's v2"),
        ("RayCluster", "/spec/authOptions/mode", "tokens", "'tokens' is not one of"),
        ("RayCluster", "/spec/authOptions", REMOVED, "Ray asks for no token"),
        ("RayCluster", "/spec/gcsFaultToleranceOptions", REMOVED, "a lost head loses the cluster"),
        ("RayCluster", "/spec/gcsFaultToleranceOptions/redisAddress", "reddis:6379", "no service"),
        ("RayCluster", "/spec/headGroupSpec/rayStartParams/num-cpus", "4", "the head does work"),
        ("RayCluster", f"{HEAD}/volumeMounts/1/name", "raymc", "don't share their logs"),
        ("RayCluster", "/spec/autoscalerOptions/securityContext", {}, "the autoscaler has capab"),
        ("RayCluster", "/spec/workerGroupSpecs/1/template/spec/affinity", REMOVED, "don't agree"),
        ("RayCluster", f"{GROUP}/minReplicas", 1, "never goes down to nothing"),
        ("RayCluster", f"{GROUP}/rayStartParams/num-gpus", "1", "stand in rayStartParams, too"),
        ("RayCluster", f"{GROUP}/labels/ray.io~1market-type", "on-demand", "don't agree"),
        ("RayCluster", f"{GROUP}/labels/ray.io~1market", "spot", "unknown label"),
        ("RayCluster", f"{POD}/nodeSelectors", {"a": "b"}, "'nodeSelectors' was unexpected"),
        ("RayCluster", f"{POD}/nodeSelector/kubernetes.io~1os", 1, "1 is not of type"),
        ("RayCluster", f"{POD}/tolerations", [], "the toleration of their taint"),
        ("RayCluster", f"{POD}/restartPolicy", "Always", "aren't restarted"),
        ("RayCluster", f"{POD}/terminationGracePeriodSeconds", 10, "killed before it has drained"),
        ("RayCluster", f"{POD}/securityContext/runAsNonRoot", False, "a pod may run as root"),
        ("RayCluster", f"{CONTAINER}/image", "raymc:latest", "isn't pinned"),
        ("Deployment", f"{MLFLOW}/image", "mlflow:3.5.0", "isn't pinned"),
        ("RayCluster", f"{CONTAINER}/volumeMounts/0/name", "rymc", "there is no volume rymc"),
        ("RayCluster", f"{CONTAINER}/resources/limits/memory", REMOVED, "has no limit"),
        ("RayCluster", f"{CONTAINER}/env/-", {"name": "PGPASSWORD", "value": "x"}, "PGPASSWORD"),
        ("Deployment", f"{MLFLOW}/ports/0/container", 1, "'container' was"),
        ("Deployment", "/spec/template/spec/enableServiceLinks", REMOVED, "as MLFLOW_PORT"),
        ("Deployment", "/spec/replicas", "1", "'1' is not of type"),
        ("Deployment", "/spec/selector/matchLabels/app", "mlfow", "no pod is selected by"),
        ("Deployment", f"{MLFLOW}/env/4/valueFrom/secretKeyRef/key", "id", "nobody makes id of"),
        ("Deployment", f"{MLFLOW}/env/5/valueFrom/secretKeyRef/name", "a", "nobody makes secret-"),
        ("PersistentVolumeClaim", "/metadata/name", "data", "there is no claim raymc"),
        ("ConfigMap", "/metadata/name", "init", "there is no postgres-init"),
        ("RayCluster", f"{POD}/nodeSelector/raymc~1accelerator", "T4", "may run in don't agree"),
        ("RayCluster", f"{POD}/initContainers/0/volumeMounts/0/name", "a", "there is no volume a"),
        ("RayCluster", f"{POD}/imagePullSecrets", [], "private registry would refuse it"),
        ("RayCluster", f"{POD}/initContainers/0/securityContext", {}, "may-write: may become root"),
        ("Namespace", "/metadata/labls", {}, "'labls' was unexpected"),
    ],
)  # fmt: skip
def test_mistakes_are_found(kind: str, path: str, value: Any, found: str) -> None:
    documents = build(KUBERAY / "overlays" / "spot-gpu")
    operation = {"op": "remove"} if value is REMOVED else {"op": "add", "value": value}
    apply(one(documents, kind), [{"path": path, **operation}])
    assert found in "\n".join(all_problems(documents))


def test_a_secret_that_the_readme_forgets_is_found() -> None:
    documents = build(KUBERAY / "base")
    left = secrets() - {("redis", "password")}
    assert "nobody makes password of redis" in "\n".join(problems(documents, left))


def test_a_namespace_that_lets_somebody_in_is_found() -> None:
    documents = build(KUBERAY / "base")
    closed = [each for each in documents if each["metadata"]["name"] != "nobody"]
    assert problems(closed, secrets()) == ["there is no policy that lets nobody in and nothing out"]
    service = next(each for each in documents if each["kind"] == "Service")
    service["spec"]["type"] = "LoadBalancer"
    assert "is open to others" in "\n".join(problems(documents, secrets()))


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("ray", {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}, "the metadata endpoint"),
        ("ray", {"to": []}, "lets everything out"),
        ("ray-drivers", {"to": [{"podSelector": {"matchLabels": {"app": "pg"}}}]}, "no pod is"),
    ],
)
def test_a_way_out_that_should_be_closed_is_found(
    name: str, change: dict[str, Any], found: str
) -> None:
    documents = build(KUBERAY / "base")
    policies = [each for each in documents if each["kind"] == "NetworkPolicy"]
    (policy,) = [each for each in policies if each["metadata"]["name"] == name]
    policy["spec"]["egress"][-1].update(change)
    assert found in "\n".join(problems(documents, secrets()))


# What is applied by itself, besides the cluster
ALONE = [*KUBERAY.glob("*.yaml"), *KUBERAY.glob("overlays/storage-*/class.yaml")]


@pytest.mark.parametrize("path", ALONE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_applied_by_itself(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        assert list(schema_problems(document)) == []
        claims = re.findall(r"claimName: (\w+)", path.read_text())
        assert set(claims) <= {one(build(KUBERAY / "base"), CLAIM)["metadata"]["name"]}


def test_the_shared_volume_has_a_class_that_many_nodes_can_write_to() -> None:
    claim = one(build(KUBERAY / "base"), "PersistentVolumeClaim")["spec"]
    assert claim["accessModes"] == ["ReadWriteMany"]
    made = [one(build(folder), "StorageClass") for folder in KUBERAY.glob("overlays/storage-*")]
    assert len(made) == 3
    for each in made:
        assert each["metadata"]["name"] == claim["storageClassName"]
        assert class_problem(each, "raymc-shared") == ""
        # whose files belong to the user that pods run as, or the page says who gives them to it
        owner = {*map(str, each.get("mountOptions", [])), *map(str, each["parameters"].values())}
        assert owner & {"1000", "uid=1000"} or each["parameters"].get("tier") == "standard"


def test_the_queue_covers_what_jobs_ask_for() -> None:
    documents = list(yaml.safe_load_all((KUBERAY / "kueue.yaml").read_text()))
    flavours = {each["metadata"]["name"] for each in documents if each["kind"] == "ResourceFlavor"}
    queue = one(documents, "ClusterQueue")
    (resources,) = queue["spec"]["resourceGroups"]
    assert one(documents, "LocalQueue")["spec"]["clusterQueue"] == queue["metadata"]["name"]
    assert [each["name"] for each in resources["flavors"]] == ["raymc-spot", "raymc-on-demand"]
    assert {each["name"] for each in resources["flavors"]} == flavours
    for flavour in resources["flavors"]:
        assert [each["name"] for each in flavour["resources"]] == resources["coveredResources"]
    asked = {
        name
        for container in containers(build(KUBERAY / "base"))
        if container["name"].startswith("ray-")
        for name in container["resources"]["requests"]
    }
    assert asked == set(resources["coveredResources"])
    queue["spec"]["preemption"]["withinClusterQueue"] = "Sometimes"
    assert "'Sometimes' is not one of" in "\n".join(schema_problems(queue))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_right(path: Path) -> None:
    job = yaml.safe_load(path.read_text())
    assert list(schema_problems(job)) == []
    assert job_problems(job, {"raymc"}) == []
    parse(shlex.split(job["spec"]["entrypoint"]))


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("clusterSelector", {"ray.io/cluster": "rymc"}, "there is no cluster"),
        ("entrypointNumCpu", 1, "'entrypointNumCpu' was unexpected"),
        ("entrypointNumCpus", 0, "on the head"),
        ("entrypointResources", "{}", "a node that goes away"),
        ("entrypointResources", {"driver": 1}, "is not of type 'string'"),
        ("submissionMode", "SidecarMode", "doesn't go with a cluster there is"),
        ("backoffLimit", 2, "can't try again"),
        ("entrypoint", "python a.py search.storage=postgresql://raymc:pw@postgres/a", "password"),
    ],
)
def test_mistakes_in_jobs_are_found(key: str, value: Any, found: str) -> None:
    job = yaml.safe_load(JOBS[0].read_text())
    job["spec"][key] = value
    assert found in "\n".join([*schema_problems(job)] or job_problems(job, {"raymc"}))


@pytest.mark.parametrize(
    "entrypoint",
    [
        "python /opt/raymc/jobs/trayn.py /opt/raymc/jobs/configs/digits.yaml",
        "python /opt/raymc/jobs/train.py /opt/raymc/jobs/configs/digits.yml",
        "python /opt/raymc/jobs/train.py /opt/raymc/jobs/configs/digits.yaml data.pth=x",
        "python /opt/raymc/jobs/train.py /opt/raymc/jobs/configs/digits.yaml --worker 2",
        "raymc tain",
        "mlflow server --backend-stor-uri=sqlite://",
        "ray job submit --adress http://127.0.0.1:8265 -- raymc demo",
    ],
)
def test_misspelt_entry_points_are_found(entrypoint: str) -> None:
    with pytest.raises(Exception, match=r"(?i)no such|unknown|no command|not found|exist"):
        parse(shlex.split(entrypoint))


def test_every_command_in_the_manifests_is_one() -> None:
    for container in containers(build(KUBERAY / "base")):
        if container.get("command", [""])[0] == "mlflow":
            parse([*container["command"], *container["args"]])
            break
    else:
        pytest.fail("there is no MLflow server")


@pytest.mark.parametrize(
    ("overlay", "demand", "asked", "started"),
    [
        ("base", GPU_TRIAL, {}, {"gpu": 1}),
        ("base", {"CPU": 1, "driver": 1}, {}, {"cpu": 1}),
        ("overlays/spot-gpu", GPU_TRIAL, {}, {"gpu-spot": 1}),
        ("overlays/spot-gpu", GPU_TRIAL, {"count": 8}, {"gpu-spot": 6, "gpu": 2}),
        ("overlays/spot-gpu", GPU_TRIAL, {"events": {"gpu-spot": TIMED_OUT}}, {"gpu": 1}),
        ("overlays/spot-gpu", GPU_TRIAL, {"market": "on-demand"}, {"gpu": 1}),
        ("overlays/spot-gpu", {"CPU": 1, "driver": 1}, {}, {"cpu": 1}),
        ("overlays/cpu-only", GPU_TRIAL, {}, {}),
        ("overlays/cpu-only", {"CPU": 1}, {"count": 9}, {"cpu": 2}),
    ],
)
def test_ray_starts_the_nodes_that_jobs_need(
    overlay: str, demand: dict[str, float], asked: dict[str, Any], started: dict[str, int]
) -> None:
    cluster = one(build(KUBERAY / overlay), "RayCluster")
    assert launched(from_kuberay(cluster), demand, **asked) == started


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here to compare with")
@pytest.mark.parametrize("overlay", OVERLAYS + OPTIONS)
def test_kustomize_builds_the_same(overlay: str) -> None:
    command = ["kubectl", "kustomize", str(KUBERAY / overlay)]
    built = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    documents = list(yaml.load_all(built.stdout, yaml.CSafeLoader))
    assert _by_name(documents) == _by_name(build(KUBERAY / overlay))


def _by_name(documents: list[Document]) -> dict[tuple[str, str], Document]:
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def test_what_the_helper_does_not_know_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: []\nnamePrefix: a-\n")
    with pytest.raises(ValueError, match="namePrefix"):
        build(tmp_path)
    with pytest.raises(ValueError, match="move isn't known"):
        apply({"a": 1}, [{"op": "move", "path": "/a", "from": "/b"}])
    with pytest.raises(ValueError, match="/a is 1"):
        apply({"a": 1}, [{"op": "test", "path": "/a", "value": 2}])
    with pytest.raises(KeyError):
        apply({"a": 1}, [{"op": "replace", "path": "/b", "value": 2}])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_drivers_are_told_what_the_cluster_may_grow_to(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = one(build(KUBERAY / overlay), "RayCluster")
    pod = made["spec"]["workerGroupSpecs"][0]["template"]["spec"]
    (limits,) = [each["value"] for each in pod["containers"][0]["env"] if each["name"] == GROWS_TO]
    monkeypatch.setattr(connect.ray_state, "get_max_resources_from_cluster_config", lambda: None)
    monkeypatch.setenv(GROWS_TO, limits)
    assert connect.grows_to() == most_of_workers(from_kuberay(made))
