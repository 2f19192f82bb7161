"""What is in deploy/ and in the docs: it names settings, routes and metrics that exist."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from opengte.serve.config import loading
from opengte.serve.config.settings import SETTINGS, variable_name
from opengte.serve.http.routing import OPERATIONS
from opengte.serve.observability.metric_definitions import metric_families
from tests.support.installed import needs

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "opengte"
METRICS = ROOT / "docs" / "reference" / "metrics.md"
ELSEWHERE = {"OPENGTE_CACHE", "OPENGTE_CONFIG"}  # variables that are no settings

FULL = {
    "keysSecret": "k",
    "apiKeySecret": "a",
    "autoscaling": {"enabled": True, "cpuPercent": 80},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "t"},
    "modelsClaim": "c",
    "otlpEndpoint": "http://x",
    "serviceMonitor": {"enabled": True, "labels": {"a": "b"}},
    "podAnnotations": {"x": "y"},
    "podLabels": {"x": "y"},
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "extraEnv": [{"name": "A", "value": "b"}],
    "imagePullSecrets": [{"name": "p"}],
}


def files():
    return [path for path in DEPLOY.rglob("*") if path.is_file()]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(DEPLOY)))
def test_variables_are_settings(path):
    known = {variable_name(one.name) for one in SETTINGS} | ELSEWHERE
    assert set(re.findall(r"OPENGTE_[A-Z_]+", path.read_text())) <= known


def test_metrics_of_the_docs_and_of_deploy_exist():
    names = {family.name for family in metric_families(["a"], ["/"])}
    for path in [*(ROOT / "docs").rglob("*.md"), *files()]:
        text = path.read_text()
        told = set(re.findall(r"\bopengte_[a-z_]+(?=[{`\"'\[(]|$)", text)) - {"opengte_"}
        assert told <= names, (path, told - names)


def test_every_metric_is_in_the_docs():
    text = METRICS.read_text()
    short = {"opengte_batch_tokens", "opengte_batch_texts", "opengte_batch_fill"}  # as _tokens, ...
    short |= {"opengte_cache_misses_total"}
    names = {family.name for family in metric_families(["a"], ["/"])}
    assert {name for name in names - short if name not in text} == set()


def test_the_toml_of_the_docs_and_of_the_chart_is_read(tmp_path):
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    blocks = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    blocks.append(yaml.safe_load((CHART / "values.yaml").read_text())["settings"])
    for block in blocks:
        assert tomllib.loads(block)
        (tmp_path / "server.toml").write_text(block)
        assert loading.load_settings({}, {}, tmp_path / "server.toml").settings.models


def test_the_image_runs_as_nobody_in_particular_and_checks_itself():
    text = (DEPLOY / "Dockerfile").read_text()
    last = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", last, re.MULTILINE)
    assert last.index("USER ") < last.index("ENTRYPOINT ")
    assert "HEALTHCHECK" in last
    assert "/health'" in last


def test_compose_is_yaml_and_names_the_port_of_the_image():
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["opengte"]
    assert service["ports"] == ["127.0.0.1:8080:8080"]
    assert "EXPOSE 8080" in (DEPLOY / "Dockerfile").read_text()
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def render(values):
    """Return the documents of the chart by kind."""
    needs("helm_python")
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        pages = chart.render(values=values, name="rel")
    texts = [text for name, text in pages.items() if not name.endswith("NOTES.txt")]
    documents = [one for text in texts for one in yaml.safe_load_all(text) if one]
    return {document["kind"]: document for document in documents}


@pytest.fixture(params=[{}, FULL], ids=["plain", "full"])
def rendered(request):
    return render(request.param)


def environment(documents):
    (container,) = documents["Deployment"]["spec"]["template"]["spec"]["containers"]
    return {one["name"]: one.get("value") for one in container["env"]}


@pytest.mark.parametrize("insecure", [None, False, "", "no"])
def test_an_ingress_without_keys_is_refused(insecure):
    values = {"ingress": {"enabled": True}}
    if insecure is not None:
        values["insecure"] = insecure
    with pytest.raises(Exception, match="keysSecret .*apiKeySecret.*insecure=true"):
        render(values)


@pytest.mark.parametrize("more", [{"keysSecret": "k"}, {"apiKeySecret": "a"}, {"insecure": True}])
def test_an_ingress_needs_keys_or_a_word(more):
    documents = render({"ingress": {"enabled": True}, **more})
    assert "Ingress" in documents
    assert ("OPENGTE_INSECURE" in environment(documents)) == ("insecure" in more)


def reaches(paths, path):
    """Return whether an ingress passes a path on."""
    for rule in paths:
        if rule["pathType"] == "Exact":
            if path == rule["path"]:
                return True
        elif path == rule["path"] or path.startswith(rule["path"] + "/"):
            return True
    return False


def test_the_ingress_has_every_route_but_those_of_operators():
    documents = render({"ingress": {"enabled": True}, "keysSecret": "k"})
    (rule,) = documents["Ingress"]["spec"]["rules"]
    paths = rule["http"]["paths"]
    served = {path for one in OPERATIONS for path in one.paths}
    served |= {"/docs", "/page/state", "/assets/start.js", "/kb/docs/search", "/openapi.json"}
    served |= {"/health", "/ping", "/healthz", "/livez", "/ready", "/readyz", "/version"}
    assert {path for path in served if not reaches(paths, path)} == set()
    for path in ("/metrics", "/metrics/", "/admin", "/admin/reload", "/anything"):
        assert not reaches(paths, path)


def test_the_chart_makes_what_a_cluster_takes(rendered):
    needs("kubernetes_validate")
    from kubernetes_validate import validate

    for kind, document in rendered.items():
        if kind != "ServiceMonitor":  # of an extension
            for version in ("1.27", "1.30", "1.33"):
                validate(document, version, strict=True)


def test_the_chart_probes_and_protects(rendered):
    pod = rendered["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert pod["enableServiceLinks"] is False
    if "HorizontalPodAutoscaler" in rendered:
        first = rendered["HorizontalPodAutoscaler"]["spec"]["metrics"][0]
        assert first["pods"]["metric"]["name"] == "opengte_queue_tokens"
        assert "replicas" not in rendered["Deployment"]["spec"]
