"""The settings of a server: the one table that flags, variables, file keys and docs come from.

A field `max_body_bytes` is the flag `--max-body-bytes`, the environment variable
`OPENGTE_MAX_BODY_BYTES` and the line `max_body_bytes = ...` of a TOML file.
"""

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from decimal import Decimal
from functools import partial
from typing import Any, Literal

from opengte.errors import InputError
from opengte.serve.config.inference import ModelSettings

ValueKind = Literal["text", "list", "whole", "number", "size", "switch", "models"]

DEFAULT_PORT = 8080


@dataclass(frozen=True)
class SettingInfo:
    """Metadata of one setting; `kind` is how its text is parsed."""

    group: str
    kind: ValueKind
    help: str
    metavar: str | None = None
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    secret: bool = False  # never printed
    per_model: bool = False  # a [[model]] table may set it for one model


def _setting(group: str, default: Any, kind: ValueKind, help: str, **more: Any) -> Any:
    return field(default=default, metadata={"info": SettingInfo(group, kind, help, **more)})


_SECONDS: dict[str, Any] = {"metavar": "SECONDS", "minimum": 0}
_TOKENS: dict[str, Any] = {"metavar": "TOKENS", "minimum": 1}

_models = partial(_setting, "Models")
_scheduling = partial(_setting, "Scheduling")
_knowledge_bases = partial(_setting, "Knowledge bases")
_protocols = partial(_setting, "Protocols")
_network = partial(_setting, "Network")
_tls = partial(_setting, "TLS")
_access = partial(_setting, "Access")
_observation = partial(_setting, "Observation")
_process = partial(_setting, "Process")
_limits = partial(_setting, "Limits")
_console = partial(_setting, "Console")


@dataclass(frozen=True)
class ServerSettings:
    """All settings of a server; raises InputError for a value that a setting may not have."""

    model: tuple[str | Mapping[str, Any], ...] = _models(
        ("minilm",),
        "models",
        "Hub id, folder, pypi:NAME or short name; NAME=MODEL serves it under another name. "
        "Repeatable.",
        metavar="MODEL",
    )
    engine: str = _models(
        "auto",
        "text",
        "What computes: the compiled CPU engine or PyTorch.",
        choices=("auto", "native", "torch"),
        per_model=True,
    )
    precision: str = _models(
        "auto",
        "text",
        "Numerical precision.",
        choices=("auto", "fp32", "bf16", "fp16", "int8"),
        per_model=True,
    )
    threads: int | None = _models(
        None,
        "whole",
        "Processor threads of each worker process. By default the workers share the processors.",
        minimum=1,
        per_model=True,
    )
    device: str | None = _models(
        None, "text", "Device: cpu, cuda, cuda:1, ...", metavar="NAME", per_model=True
    )
    revision: str | None = _models(
        None, "text", "Branch, tag or commit of a Hub model.", metavar="NAME", per_model=True
    )
    max_length: int | None = _models(
        None,
        "whole",
        "Truncate texts to fewer tokens than the model takes.",
        **_TOKENS,
        per_model=True,
    )
    offline: bool = _models(
        False, "switch", "Use only local files; never contact the Hub.", per_model=True
    )
    max_batch_tokens: int | None = _scheduling(
        None,
        "whole",
        "Tokens of a batch, which bound the peak memory. Default: derived from the free memory.",
        **_TOKENS,
        per_model=True,
    )
    max_queue_tokens: int | None = _scheduling(
        None,
        "whole",
        "Maximum queued tokens. Default: derived from measured throughput. Requests over the limit "
        "get 429/503 with Retry-After.",
        **_TOKENS,
        per_model=True,
    )
    batch_seconds: float = _scheduling(
        30.0,
        "number",
        "A batch that takes so many seconds longer than its tokens should counts as a hang.",
        **_SECONDS,
        per_model=True,
    )
    timeout: float | None = _scheduling(
        None,
        "number",
        "Deadline of a request in seconds; clients may set a shorter one.",
        **_SECONDS,
    )
    interactive_inputs: int = _scheduling(
        16,
        "whole",
        "A request to embed more inputs than this has priority `bulk`, unless its header says "
        "otherwise.",
        metavar="N",
        minimum=0,
    )
    cache_memory: int = _scheduling(
        64 * 2**20,
        "size",
        "Memory of the cache of results; 0 turns it off.",
        metavar="SIZE",
        minimum=0,
    )
    cache_file: str | None = _scheduling(
        None, "text", "Also cache results in this file, across restarts.", metavar="FILE"
    )
    cache_disk: int = _scheduling(
        2**30, "size", "Maximum size of the cache file.", metavar="SIZE", minimum=0
    )
    kb: tuple[str, ...] = _knowledge_bases(
        (),
        "list",
        "An index made by `gte index`: serves its search page and API at /kb/. NAME=KB serves it "
        "under another name. Repeatable.",
        metavar="KB",
    )
    where: tuple[str, ...] = _knowledge_bases(
        (),
        "list",
        "Serve only these documents, as in `gte search --where`; `gte keys create --where` limits "
        "a key further. Repeatable.",
        metavar="FIELD=VALUE",
    )
    reranker: str | None = _knowledge_bases(
        None,
        "text",
        "Model that reranks the best passages of queries that ask for it.",
        metavar="MODEL",
    )
    auto_truncate: bool = _protocols(
        True,
        "switch",
        "Truncate over-long inputs unless the request says otherwise; off: refuse them.",
    )
    token_ids: str = _protocols(
        "auto",
        "text",
        "Whose token ids clients send: the model's or tiktoken's; `auto` decides for each request.",
        choices=("auto", "model", "tiktoken", "refuse"),
    )
    tiktoken_files: str | None = _protocols(
        None, "text", "Folder with cl100k_base.tiktoken.", metavar="FOLDER"
    )
    strict: bool = _protocols(False, "switch", "Refuse requests with unknown fields.")
    tei_validation_status: int = _protocols(
        422,
        "whole",
        "Status of TEI's routes for invalid input: 422, or 413 as in TEI before 1.9.",
        minimum=413,
    )
    host: str = _network("127.0.0.1", "text", "Address to listen on.", metavar="ADDRESS")
    port: int = _network(DEFAULT_PORT, "whole", "Port to listen on; 0 picks a free one.", minimum=0)
    uds: str | None = _network(
        None, "text", "Listen on this Unix socket instead of a port.", metavar="PATH"
    )
    root_path: str = _network(
        "", "text", "Path prefix that a proxy adds; it may strip it or not.", metavar="PATH"
    )
    forwarded_allow_ips: str = _network(
        "127.0.0.1",
        "text",
        "Proxies whose X-Forwarded-For and -Proto are trusted, separated by commas; * is all.",
        metavar="LIST",
    )
    cors_origin: tuple[str, ...] = _network(
        (),
        "list",
        "Web origin whose pages may call this server (CORS). Repeatable.",
        metavar="ORIGIN",
    )
    tls_cert: str | None = _tls(None, "text", "Certificate chain; enables TLS.", metavar="PEM")
    tls_key: str | None = _tls(
        None, "text", "Private key, if it is not in the file of the certificate.", metavar="PEM"
    )
    tls_client_ca: str | None = _tls(
        None, "text", "Require client certificates of this authority.", metavar="PEM"
    )
    insecure: bool = _access(
        False,
        "switch",
        "Allow everyone without an API key, even on an address that other machines can reach.",
    )
    state_dir: str | None = _access(
        None,
        "text",
        "Folder for API keys and usage records.  [default: in the user's data folder]",
        metavar="FOLDER",
    )
    keys_dir: str | None = _access(
        None,
        "text",
        "Folder of the API keys, if it is another one, such as a read-only volume.",
        metavar="FOLDER",
    )
    api_key: str | None = _access(
        None,
        "text",
        "One key without limits, besides those of `gte keys`; prefer the environment variable.",
        metavar="KEY",
        secret=True,
    )
    usage: bool = _access(True, "switch", "Record the usage of each key, for `gte usage`.")
    metrics: str = _observation(
        "key",
        "text",
        "Who may read /metrics: `key` holders (everyone if no key is needed), everyone, or nobody.",
        choices=("key", "public", "off"),
    )
    log_format: str = _observation(
        "auto",
        "text",
        "auto: human-readable on a terminal, JSON otherwise.",
        choices=("auto", "human", "json"),
    )
    log_level: str = _observation(
        "info",
        "text",
        "Minimum severity that is logged.",
        choices=("debug", "info", "warning", "error"),
    )
    access_log_sample: float = _observation(
        1.0,
        "number",
        "Share of successful requests that are logged; failures always are.",
        metavar="SHARE",
        minimum=0,
    )
    otlp_endpoint: str | None = _observation(
        None,
        "text",
        "Export traces to this OpenTelemetry collector over HTTP (extra `otel`).",
        metavar="URL",
    )
    trace_sample: float = _observation(
        1.0,
        "number",
        "Share of requests that start a trace, of those that do not belong to one.",
        metavar="SHARE",
        minimum=0,
    )
    workers: int = _process(1, "whole", "Worker processes; they share port and weights.", minimum=1)
    drain_timeout: float = _process(
        30.0, "number", "Seconds for requests in flight to finish after SIGTERM.", **_SECONDS
    )
    drain_delay: float = _process(
        0.0,
        "number",
        "Seconds between /ready answering 503 and the port closing, for load balancers to notice.",
        **_SECONDS,
    )
    max_inputs: int = _limits(
        65_536, "whole", "Maximum inputs of a request.", metavar="N", minimum=1
    )
    max_body_bytes: int = _limits(
        32 * 2**20, "size", "Maximum size of a body.", metavar="SIZE", minimum=1
    )
    max_header_bytes: int = _limits(
        32 * 2**10, "size", "Maximum size of request line and headers.", metavar="SIZE", minimum=256
    )
    max_connections: int = _limits(
        8192, "whole", "Maximum open connections of a worker process.", minimum=1
    )
    header_timeout: float = _limits(
        10.0, "number", "Timeout for a client to send its headers, in seconds.", **_SECONDS
    )
    body_timeout: float = _limits(
        30.0,
        "number",
        "Seconds for a client to send its body, plus one for every 16 KiB of it.",
        **_SECONDS,
    )
    write_timeout: float = _limits(
        30.0,
        "number",
        "Seconds after which a client that does not read its answer is cut off.",
        **_SECONDS,
    )
    keep_alive_timeout: float = _limits(
        75.0, "number", "Seconds after which an idle connection is closed.", **_SECONDS
    )
    console: bool = _console(
        False, "switch", "Serve pages about the models, and accounts (extra `console`)."
    )
    console_url: str | None = _console(
        None, "text", "Public address of the server, for sign-in.", metavar="URL"
    )
    console_database: str | None = _console(
        None,
        "text",
        "Keep accounts in PostgreSQL: postgresql://USER@HOST/NAME.  [default: in state_dir]",
        metavar="URL",
        secret=True,
    )
    oidc_issuer: str | None = _console(
        None, "text", "Identity provider (OpenID Connect) that users sign in with.", metavar="URL"
    )
    oidc_client_id: str | None = _console(None, "text", "This server's id there.", metavar="ID")
    oidc_client_secret: str | None = _console(
        None,
        "text",
        "This server's secret there; prefer the environment variable.",
        metavar="SECRET",
        secret=True,
    )
    oidc_scope: str = _console("openid profile email", "text", "Scopes that are asked for.")
    oidc_groups_claim: str = _console(
        "groups", "text", "Claim with the groups of a user.", metavar="NAME"
    )
    oidc_team: tuple[str, ...] = _console(
        (),
        "list",
        "Group whose members are in a team: GROUP or GROUP=TEAM. Repeatable.",
        metavar="GROUP",
    )
    oidc_operators: tuple[str, ...] = _console(
        (), "list", "Group whose members are operators. Repeatable.", metavar="GROUP"
    )
    currency: str = _console("million tokens", "text", "What credit is counted in.", metavar="NAME")
    price: tuple[str, ...] = _console(
        (),
        "list",
        "Price of a million tokens, 1 by default; MODEL=PRICE for one model. Repeatable.",
        metavar="PRICE",
    )
    free_credit: float = _console(
        0.0, "number", "Credit that a user gets at the first sign-in.", metavar="AMOUNT", minimum=0
    )
    credit_block: float = _console(
        0.1,
        "number",
        "Credit that a worker process leases at once, and may overdraw at most.",
        metavar="AMOUNT",
        minimum=1e-6,
    )
    hourly_cost: float | None = _console(
        None,
        "number",
        "What this machine costs an hour: the pages then say what a million tokens cost.",
        metavar="COST",
        minimum=0,
    )

    def __post_init__(self) -> None:
        for setting in fields(self):
            check_value(setting, getattr(self, setting.name))
        if self.tei_validation_status not in (413, 422):
            raise InputError(
                f"tei_validation_status: got {self.tei_validation_status}; expected 422 or 413"
            )
        names = [name for model in self.models for name in (model.name, *model.aliases)]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise InputError(
                f"model: two models are called `{duplicates[0]}`; "
                "give one of them another name with NAME=MODEL"
            )
        self.price_of("")  # every price can be read
        if self.tls_key and not self.tls_cert:
            raise InputError("tls_key: a key without a certificate; set tls_cert too")
        if self.oidc_issuer and not self.oidc_client_id:
            raise InputError("oidc_issuer: an identity provider needs oidc_client_id too")
        if self.tls_client_ca and not self.tls_cert:
            raise InputError("tls_client_ca: only a server with tls_cert can ask for certificates")

    @property
    def models(self) -> tuple[ModelSettings, ...]:
        """Every model with its own settings, and the server's for those that it does not set."""
        return tuple(self._model(given) for given in self.model)

    def price_of(self, model: str) -> Decimal:
        """Return the price of a million tokens of a model, with up to three decimals."""
        found = Decimal(1)
        for text in self.price:
            name, equals, number = text.rpartition("=")
            if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,3})?", number):
                raise InputError(
                    f"price: got {text!r}; expected a number of up to three decimals, such as 0.02 "
                    "or minilm=0.02"
                )
            if not equals or name == model:
                found = Decimal(number)
                if equals:
                    return found
        return found

    def _model(self, given: str | Mapping[str, Any]) -> ModelSettings:
        common = {name: getattr(self, name) for name in PER_MODEL}
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


def setting_info(setting: "Field[Any]") -> SettingInfo:
    """Return the metadata of a field of `ServerSettings`."""
    info: SettingInfo = setting.metadata["info"]
    return info


SETTINGS: tuple["Field[Any]", ...] = fields(ServerSettings)
GROUPS = tuple(dict.fromkeys(setting_info(setting).group for setting in SETTINGS))
PER_MODEL = {setting.name: setting for setting in SETTINGS if setting_info(setting).per_model}


def flag_name(name: str) -> str:
    """Return the command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def variable_name(name: str) -> str:
    """Return the environment variable of a setting."""
    return "OPENGTE_" + name.upper()


def check_value(setting: "Field[Any]", value: Any) -> None:
    """Raise InputError for a value that a setting may not have."""
    info = setting_info(setting)
    if value is None and setting.default is None:
        return
    wrong = not isinstance(value, _TYPES[info.kind])
    if wrong or (isinstance(value, bool) and info.kind != "switch"):
        raise InputError(f"{setting.name}: got {value!r}; expected {_DESCRIPTIONS[info.kind]}")
    if info.choices and value not in info.choices:
        raise InputError(
            f"{setting.name}: got {value!r}; expected one of {', '.join(info.choices)}"
        )
    if info.minimum is not None and value < info.minimum:
        raise InputError(f"{setting.name}: got {value!r}; expected at least {info.minimum}")


_TYPES: dict[ValueKind, type | tuple[type, ...]] = {
    "text": str,
    "list": tuple,
    "models": tuple,
    "whole": int,
    "size": int,
    "number": (int, float),
    "switch": bool,
}
_DESCRIPTIONS: dict[ValueKind, str] = {
    "text": "a text",
    "list": "a list of texts",
    "models": "names of models or [[model]] tables",
    "whole": "a whole number",
    "size": "a number of bytes, such as 67108864 or 64MiB",
    "number": "a number",
    "switch": "true or false",
}
