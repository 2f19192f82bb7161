"""What a server can be told: one table, from which flags, variables, file keys and docs are made.

A field `max_body_bytes` is the flag `--max-body-bytes`, the environment variable
`OPENGTE_MAX_BODY_BYTES` and the line `max_body_bytes = ...` of a TOML file.
"""

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, Literal

from opengte.errors import InputError
from opengte.serve.config.inference import ModelSettings

Kind = Literal["text", "list", "whole", "number", "size", "switch", "models"]

DEFAULT_PORT = 8080


@dataclass(frozen=True)
class About:
    """What is said of one setting: `kind` is how its text is read."""

    group: str
    kind: Kind
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    secret: bool = False  # never printed
    per_model: bool = False  # a [[model]] table may say it for one model


def _setting(default: Any, group: str, kind: Kind, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"about": About(group, kind, help, **more)})


@dataclass(frozen=True)
class Settings:
    """Everything that a server can be told."""

    model: tuple[str | Mapping[str, Any], ...] = _setting(
        ("minilm",),
        "Models",
        "models",
        "Hub id, folder, pypi:NAME or short name; NAME=MODEL serves it under another name. "
        "Repeatable.",
        metavar="MODEL",
    )
    engine: str = _setting(
        "auto",
        "Models",
        "text",
        "What computes.",
        choices=("auto", "native", "torch"),
        per_model=True,
    )
    precision: str = _setting(
        "auto",
        "Models",
        "text",
        "Number format of the computation.",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        per_model=True,
    )
    threads: int | None = _setting(
        None,
        "Models",
        "whole",
        "Processor threads of each worker process; otherwise they share the processors.",
        minimum=1,
        per_model=True,
    )
    device: str | None = _setting(
        None, "Models", "text", "cpu, cuda, cuda:1, ...", metavar="NAME", per_model=True
    )
    revision: str | None = _setting(
        None,
        "Models",
        "text",
        "Branch, tag or commit of a Hub model.",
        metavar="NAME",
        per_model=True,
    )
    max_length: int | None = _setting(
        None,
        "Models",
        "whole",
        "Cut texts at fewer tokens than the model takes.",
        metavar="TOKENS",
        minimum=1,
        per_model=True,
    )
    offline: bool = _setting(
        False, "Models", "switch", "Use only what is on this machine.", per_model=True
    )
    max_batch_tokens: int | None = _setting(
        None,
        "Scheduling",
        "whole",
        "Tokens computed at once, which fixes the peak memory; otherwise by the free memory.",
        metavar="TOKENS",
        minimum=1,
        per_model=True,
    )
    max_queue_tokens: int | None = _setting(
        None,
        "Scheduling",
        "whole",
        "Tokens that may wait, otherwise by the speed; what comes on top is told when to return.",
        metavar="TOKENS",
        minimum=1,
        per_model=True,
    )
    batch_seconds: float = _setting(
        30.0,
        "Scheduling",
        "number",
        "A batch that takes longer than this, and than its tokens need, counts as hanging.",
        metavar="SECONDS",
        minimum=0,
        per_model=True,
    )
    timeout: float | None = _setting(
        None,
        "Scheduling",
        "number",
        "Time that a request has before it is given up; clients may set less.",
        metavar="SECONDS",
        minimum=0,
    )
    interactive_inputs: int = _setting(
        16,
        "Scheduling",
        "whole",
        "A request to embed more inputs than this is bulk work, unless its key or header says.",
        metavar="N",
        minimum=0,
    )
    cache_memory: int = _setting(
        64 * 2**20,
        "Scheduling",
        "size",
        "Memory for answers kept for equal inputs; 0 keeps none.",
        metavar="SIZE",
        minimum=0,
    )
    cache_file: str | None = _setting(
        None,
        "Scheduling",
        "text",
        "Keep answers in this file too, across restarts.",
        metavar="FILE",
    )
    cache_disk: int = _setting(
        2**30, "Scheduling", "size", "Largest size of that file.", metavar="SIZE", minimum=0
    )
    kb: tuple[str, ...] = _setting(
        (),
        "Knowledge bases",
        "list",
        "An index that `gte index` made: search page at /kb/, and its routes. NAME=KB serves it "
        "under another name. Repeatable.",
        metavar="KB",
    )
    where: tuple[str, ...] = _setting(
        (),
        "Knowledge bases",
        "list",
        "Only these documents exist, as in `gte search --where`; `gte keys create --where` limits "
        "single keys further. Repeatable.",
        metavar="FIELD=VALUE",
    )
    reranker: str | None = _setting(
        None,
        "Knowledge bases",
        "text",
        "Model that orders the best passages, where a question asks for it.",
        metavar="MODEL",
    )
    auto_truncate: bool = _setting(
        True,
        "Protocols",
        "switch",
        "Cut inputs that are too long where a request does not say; otherwise refuse them.",
    )
    token_ids: str = _setting(
        "auto",
        "Protocols",
        "text",
        "Whose token ids clients send: the model's, tiktoken's, to be told apart, or refused.",
        choices=("auto", "model", "tiktoken", "refuse"),
    )
    tiktoken_files: str | None = _setting(
        None, "Protocols", "text", "Folder with cl100k_base.tiktoken.", metavar="FOLDER"
    )
    strict: bool = _setting(
        False, "Protocols", "switch", "Refuse fields of a request that are not known."
    )
    tei_validation_status: int = _setting(
        422,
        "Protocols",
        "whole",
        "What TEI's routes answer to invalid input: 422, or 413 as TEI before 1.9.",
        minimum=413,
    )
    host: str = _setting("127.0.0.1", "Network", "text", "Address to listen on.", metavar="ADDRESS")
    port: int = _setting(
        DEFAULT_PORT, "Network", "whole", "Port to listen on; 0 takes a free one.", minimum=0
    )
    uds: str | None = _setting(
        None, "Network", "text", "Listen on this Unix socket instead.", metavar="PATH"
    )
    root_path: str = _setting(
        "", "Network", "text", "Path that a proxy puts before ours.", metavar="PATH"
    )
    forwarded_allow_ips: str = _setting(
        "127.0.0.1",
        "Network",
        "text",
        "Proxies whose X-Forwarded-For and -Proto are believed, with commas; * is all.",
        metavar="LIST",
    )
    cors_origin: tuple[str, ...] = _setting(
        (),
        "Network",
        "list",
        "Web origin whose pages may call this server; repeatable. None by default.",
        metavar="ORIGIN",
    )
    tls_cert: str | None = _setting(
        None, "TLS", "text", "Certificate chain; turns on TLS.", metavar="PEM"
    )
    tls_key: str | None = _setting(
        None,
        "TLS",
        "text",
        "Private key, where it is not in the certificate's file.",
        metavar="PEM",
    )
    tls_client_ca: str | None = _setting(
        None, "TLS", "text", "Clients must show a certificate of this authority.", metavar="PEM"
    )
    insecure: bool = _setting(
        False,
        "Access",
        "switch",
        "Serve an address that other machines can reach without API keys.",
    )
    state_dir: str | None = _setting(
        None,
        "Access",
        "text",
        "Folder of the API keys and the usage records.  [default: in the user's data folder]",
        metavar="FOLDER",
    )
    keys_dir: str | None = _setting(
        None,
        "Access",
        "text",
        "Folder of the API keys, where it is another, such as a read-only volume.",
        metavar="FOLDER",
    )
    api_key: str | None = _setting(
        None,
        "Access",
        "text",
        "One key without limits, beside those of `gte keys`; better set as a variable.",
        metavar="KEY",
        secret=True,
    )
    usage: bool = _setting(
        True, "Access", "switch", "Write down what each key used, for `gte usage`."
    )
    metrics: str = _setting(
        "key",
        "Observation",
        "text",
        "Who may read /metrics: holders of a key where keys are needed, everyone, or no one.",
        choices=("key", "public", "off"),
    )
    log_format: str = _setting(
        "auto",
        "Observation",
        "text",
        "auto: for people on a terminal, JSON otherwise.",
        choices=("auto", "human", "json"),
    )
    log_level: str = _setting(
        "info",
        "Observation",
        "text",
        "Least severity that is logged.",
        choices=("debug", "info", "warning", "error"),
    )
    access_log_sample: float = _setting(
        1.0,
        "Observation",
        "number",
        "Share of the successful requests that are logged; failures always are.",
        metavar="SHARE",
        minimum=0,
    )
    otlp_endpoint: str | None = _setting(
        None,
        "Observation",
        "text",
        "Send traces to this OpenTelemetry collector over HTTP (extra `otel`).",
        metavar="URL",
    )
    trace_sample: float = _setting(
        1.0,
        "Observation",
        "number",
        "Share of the requests without a trace of their own that start one.",
        metavar="SHARE",
        minimum=0,
    )
    workers: int = _setting(
        1, "Process", "whole", "Processes; they share the port and the weights.", minimum=1
    )
    drain_timeout: float = _setting(
        30.0,
        "Process",
        "number",
        "Seconds that running requests get after SIGTERM.",
        metavar="SECONDS",
        minimum=0,
    )
    drain_delay: float = _setting(
        0.0,
        "Process",
        "number",
        "Seconds between /ready saying no and the port closing, for balancers to notice.",
        metavar="SECONDS",
        minimum=0,
    )
    max_inputs: int = _setting(
        65_536, "Limits", "whole", "Most inputs of one request.", metavar="N", minimum=1
    )
    max_body_bytes: int = _setting(
        32 * 2**20, "Limits", "size", "Largest body of a request.", metavar="SIZE", minimum=1
    )
    max_header_bytes: int = _setting(
        32 * 2**10,
        "Limits",
        "size",
        "Largest request line and headers.",
        metavar="SIZE",
        minimum=256,
    )
    max_connections: int = _setting(
        8192, "Limits", "whole", "Open connections of a worker process.", minimum=1
    )
    header_timeout: float = _setting(
        10.0,
        "Limits",
        "number",
        "Seconds for a client to send its headers.",
        metavar="SECONDS",
        minimum=0,
    )
    body_timeout: float = _setting(
        30.0,
        "Limits",
        "number",
        "Seconds for a client to send its body, and one more for every 16 KiB of it.",
        metavar="SECONDS",
        minimum=0,
    )
    write_timeout: float = _setting(
        30.0,
        "Limits",
        "number",
        "Seconds for a client to make room for more of an answer.",
        metavar="SECONDS",
        minimum=0,
    )
    keep_alive_timeout: float = _setting(
        75.0,
        "Limits",
        "number",
        "Seconds that an idle connection stays open.",
        metavar="SECONDS",
        minimum=0,
    )

    def __post_init__(self) -> None:
        for one in fields(self):
            check(one, getattr(self, one.name))
        if self.tei_validation_status not in (413, 422):
            raise InputError(
                f"tei_validation_status: got {self.tei_validation_status}; expected 422 or 413"
            )
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"model: two models are called `{twice[0]}`; "
                "give one of them another name with NAME=MODEL"
            )
        if self.tls_key and not self.tls_cert:
            raise InputError("tls_key: a key without a certificate; set tls_cert too")
        if self.tls_client_ca and not self.tls_cert:
            raise InputError("tls_client_ca: only a server with tls_cert can ask for certificates")

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """Return every model with its own settings, and the common ones where it has none."""
        return tuple(self._model(given) for given in self.model)

    def _model(self, given: str | Mapping[str, Any]) -> ModelSettings:
        common = {one.name: getattr(self, one.name) for one in fields(self) if about(one).per_model}
        common["offline"] = self.offline or None
        if not isinstance(given, str):
            own = dict(given)
            source = own.pop("source", None) or own.get("name")
            if not source:
                raise InputError("model: a [[model]] table needs a `source` or a `name`")
            own["aliases"] = tuple(own.get("aliases", ()))
            return ModelSettings(**{**common, "name": source, **own, "source": source})
        name, equals, source = given.partition("=")
        if equals and "/" not in name:
            return ModelSettings(name=name, source=source, **common)
        return ModelSettings(name=given, source=given, **common)


def about(setting: "Field[Any]") -> About:
    """Return what is said of a field of `Settings`."""
    found: About = setting.metadata["about"]
    return found


TABLE: tuple["Field[Any]", ...] = fields(Settings)
GROUPS = tuple(dict.fromkeys(about(one).group for one in TABLE))
PER_MODEL = {one.name: one for one in TABLE if about(one).per_model}


def flag(name: str) -> str:
    """Return the flag of a setting."""
    return "--" + name.replace("_", "-")


def variable(name: str) -> str:
    """Return the environment variable of a setting."""
    return "OPENGTE_" + name.upper()


def check(setting: "Field[Any]", value: Any) -> None:
    """Raise InputError where a value is not one that a setting may have."""
    said = about(setting)
    if value is None and setting.default is None:
        return
    expected = _EXPECTED[said.kind]
    wrong = not isinstance(value, expected) or (isinstance(value, bool) and said.kind != "switch")
    if wrong:
        raise InputError(f"{setting.name}: got {value!r}; expected {_WORDS[said.kind]}")
    if said.choices and value not in said.choices:
        raise InputError(
            f"{setting.name}: got {value!r}; expected one of {', '.join(said.choices)}"
        )
    if said.minimum is not None and value < said.minimum:
        raise InputError(f"{setting.name}: got {value!r}; expected at least {said.minimum}")


_EXPECTED: dict[Kind, type | tuple[type, ...]] = {
    "text": str,
    "list": tuple,
    "models": tuple,
    "whole": int,
    "size": int,
    "number": (int, float),
    "switch": bool,
}
_WORDS: dict[Kind, str] = {
    "text": "a text",
    "list": "a list of texts",
    "models": "names of models or [[model]] tables",
    "whole": "a whole number",
    "size": "a number of bytes, such as 67108864 or 64MiB",
    "number": "a number",
    "switch": "true or false",
}
