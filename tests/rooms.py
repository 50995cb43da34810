"""The plan of the house: which module may import which, and which may import a library."""

from __future__ import annotations

# What each layer of the service may import from the service; imports go downwards only.
LEAVES = {"service.errors", "service.datatypes", "service.log"}
SERVICE_IMPORTS = {
    "service": set(),
    "service.errors": set(),
    "service.datatypes": set(),
    "service.log": set(),
    "service.hardware": set(),
    "service.wheels": set(),
    "service.devices": LEAVES,
    "service.cuda": LEAVES,
    "service.fallen": LEAVES | {"service.cuda", "service.recording"},
    "service.nvml": LEAVES,
    "service.gpuwatch": LEAVES | {"service.nvml"},
    "service.proto": set(),
    "service.knobs": LEAVES,
    "service.pins": LEAVES,
    "service.gpuknobs": LEAVES | {"service.devices", "service.knobs"},
    "service.settings": LEAVES | {"service.gpuknobs", "service.knobs", "service.pins"},
    "service.arguments": LEAVES | {"service.gpuknobs", "service.knobs", "service.settings"},
    "service.manifest": LEAVES,
    "service.golden": LEAVES | {"service.manifest"},
    "service.rows": LEAVES | {"service.manifest"},
    "service.trial": LEAVES | {"service.devices", "service.providers", "service.runtime"},
    "service.machine": LEAVES
    | {
        "service.cuda", "service.devices", "service.hardware", "service.trial", "service.wheels",
    },
    "service.sessionoptions": LEAVES | {"service.devices"},
    "service.graphs": {"service.encoded"},
    "service.sizes": {"service.encoded"},
    "service.providers": LEAVES
    | {"service.devices", "service.graphs", "service.sessionoptions", "service.sizes"},
    "service.runtime": LEAVES
    | {
        "service.buffers", "service.cuda", "service.devices", "service.graphs",
        "service.hardware", "service.manifest", "service.providers", "service.sessionoptions",
        "service.sizes",
    },
    "service.session": LEAVES
    | {
        "service.buffers", "service.cuda", "service.devices", "service.hardware",
        "service.lanes", "service.manifest", "service.providers", "service.runtime",
        "service.sessionoptions", "service.staging", "service.values",
    },
    "service.staging": LEAVES | {"service.manifest"},
    "service.values": {"service.runtime", "service.staging"},
    "service.recording": set(),
    "service.buffers": LEAVES
    | {
        "service.charging", "service.cputime", "service.cuda", "service.recording",
        "service.staging",
    },
    "service.lanes": LEAVES | {"service.buffers", "service.cuda", "service.staging"},
    "service.batching": LEAVES,
    "service.latency": set(),
    "service.overlap": {"service.latency"},
    "service.scheduler": LEAVES | {"service.batching", "service.latency"},
    "service.spans": {"service.batching", "service.figures", "service.phases"},
    "service.callers": LEAVES
    | {
        "service.batching", "service.bill", "service.ledger", "service.scheduler", "service.spans",
    },
    "service.instances": LEAVES
    | {
        "service.account", "service.batching", "service.callers", "service.fallen",
        "service.latency", "service.ledger", "service.overlap", "service.scheduler",
        "service.spans",
    },
    "service.batcher": LEAVES
    | {
        "service.account", "service.batching", "service.bill", "service.callers", "service.inplace",
        "service.instances", "service.latency", "service.ledger", "service.scheduler",
        "service.spans",
    },
    "service.slots": LEAVES,
    "service.regions": LEAVES | {"service.slots"},
    "service.cudaregions": LEAVES | {"service.cuda", "service.recording", "service.slots"},
    "service.sharedmemory": LEAVES
    | {"service.cudaregions", "service.regions", "service.slots"},
    "service.classification": LEAVES,
    "service.parameters": LEAVES | {"service.proto", "service.slots"},
    "service.strings": LEAVES,
    "service.tensors": LEAVES
    | {
        "service.manifest", "service.parameters", "service.proto", "service.slots",
        "service.strings",
    },
    "service.answers": LEAVES
    | {
        "service.classification", "service.manifest", "service.parameters", "service.proto",
        "service.slots", "service.tensors",
    },
    "service.configfields": LEAVES | {"service.proto"},
    "service.policies": LEAVES | {"service.batching", "service.configfields", "service.proto"},
    "service.gpuoptions": LEAVES | {"service.configfields", "service.proto"},
    "service.ortoptions": LEAVES
    | {"service.configfields", "service.gpuoptions", "service.proto"},
    "service.modeltensors": LEAVES
    | {"service.configfields", "service.manifest", "service.proto"},
    "service.warmup": LEAVES | {"service.configfields", "service.manifest", "service.proto"},
    "service.modelconfig": LEAVES
    | {
        "service.batching", "service.configfields", "service.gpuoptions", "service.manifest",
        "service.modeltensors", "service.ortoptions", "service.policies", "service.proto",
        "service.warmup",
    },
    "service.figures": set(),
    "service.bill": {"service.figures"},
    "service.cputime": LEAVES,
    "service.charging": set(),
    "service.account": {
        "service.charging", "service.figures", "service.ledger", "service.tickets",
    },
    "service.tickets": {"service.figures"},
    "service.metering": {"service.bill"},
    "service.ledger": {
        "service.bill", "service.figures", "service.metering", "service.tickets",
    },
    "service.keeping": LEAVES
    | {
        "service.bill", "service.cputime", "service.cuda", "service.gpuwatch",
        "service.hardware", "service.ledger", "service.nvml", "service.settings",
        "service.statistics",
    },
    "service.phases": {"service.figures"},
    "service.statistics": LEAVES
    | {
        "service.figures", "service.gpuwatch", "service.ledger", "service.phases",
        "service.proto",
    },
    "service.tritonmetrics": {"service.figures", "service.model"},
    "service.gpumetrics": {"service.gpuwatch", "service.nvml"},
    "service.costs": {"service.bill", "service.figures"},
    "service.metrics": LEAVES
    | {
        "service.costs", "service.figures", "service.gpumetrics", "service.model",
        "service.statistics", "service.tritonmetrics",
    },
    "service.tracing": LEAVES,
    "service.layout": LEAVES | {"service.manifest", "service.modelconfig", "service.warmup"},
    "service.tuned": LEAVES | {"service.devices", "service.manifest"},
    "service.choice": LEAVES | {"service.manifest", "service.pins", "service.tuned"},
    "service.variants": LEAVES
    | {
        "service.batching", "service.choice", "service.golden",
        "service.manifest", "service.session", "service.tuned",
    },
    "service.advice": LEAVES
    | {
        "service.choice", "service.devices", "service.layout", "service.manifest",
        "service.precedence", "service.session", "service.tuned",
    },
    "service.precedence": LEAVES
    | {
        "service.devices", "service.hardware", "service.modelconfig", "service.session",
        "service.settings", "service.tuned",
    },
    "service.inplace": {
        "service.account", "service.batching", "service.bill", "service.latency",
        "service.ledger", "service.spans",
    },
    "service.operators": {"service.encoded"},
    "service.opened": LEAVES
    | {
        "service.batching", "service.choice", "service.inplace", "service.lanes",
        "service.latency", "service.manifest", "service.operators", "service.session",
        "service.warmup",
    },
    "service.opening": LEAVES
    | {
        "service.batching", "service.choice", "service.devices", "service.golden",
        "service.advice", "service.hardware", "service.layout", "service.machine",
        "service.manifest", "service.modelconfig", "service.opened",
        "service.pins", "service.precedence", "service.providers", "service.session",
        "service.settings", "service.tuned", "service.variants", "service.warmup",
    },
    "service.model": LEAVES
    | {
        "service.account", "service.batcher", "service.batching", "service.bill", "service.choice",
        "service.cputime", "service.layout", "service.ledger", "service.manifest",
        "service.modelconfig", "service.opening", "service.precedence", "service.session",
        "service.settings", "service.statistics",
    },
    "service.loading": LEAVES
    | {
        "service.layout", "service.model", "service.modelconfig", "service.settings",
        "service.statistics",
    },
    "service.index": set(),
    "service.repository": LEAVES
    | {
        "service.index", "service.layout", "service.loading", "service.model",
        "service.modelconfig", "service.settings", "service.statistics",
    },
    "service.modelpages": LEAVES
    | {"service.manifest", "service.model", "service.modelconfig", "service.proto"},
    "service.streams": LEAVES | {"service.interceptor", "service.proto", "service.refusals"},
    "service.inference": LEAVES
    | {
        "service.answers", "service.batching", "service.metrics", "service.model",
        "service.parameters", "service.phases", "service.proto", "service.slots",
        "service.repository", "service.spans", "service.statistics", "service.tensors",
        "service.tracing",
    },
    "service.servicer": LEAVES
    | {
        "service.account", "service.following", "service.index", "service.inference",
        "service.metrics",
        "service.model", "service.modelpages", "service.proto", "service.sharedmemory",
        "service.repository", "service.spans", "service.statistics", "service.streams",
        "service.tracing",
    },
    "service.control": LEAVES
    | {
        "service.layout", "service.manifest", "service.modelconfig", "service.proto",
        "service.settings", "service.sharedmemory", "service.servicer", "service.tracing",
    },
    "service.tokens": LEAVES,
    "service.tls": LEAVES | {"service.settings"},
    "service.encoded": set(),
    "service.refusals": LEAVES,
    "service.interceptor": LEAVES | {"service.encoded", "service.refusals", "service.tokens"},
    "service.probes": LEAVES | {"service.cputime"},
    "service.health": LEAVES,
    "service.otel": LEAVES
    | {"service.batching", "service.figures", "service.phases", "service.spans"},
    "service.otlp": LEAVES | {"service.otel", "service.spans"},
    "service.following": LEAVES | {"service.otlp", "service.settings", "service.spans"},
    "service.ports": LEAVES
    | {
        "service.control", "service.following", "service.health", "service.interceptor",
        "service.proto", "service.servicer", "service.settings", "service.tls", "service.tokens",
    },
    "service.server": LEAVES
    | {
        "service.following", "service.health", "service.inference", "service.metrics",
        "service.cuda", "service.cudaregions", "service.parameters", "service.ports",
        "service.probes", "service.regions", "service.sharedmemory",
        "service.repository", "service.servicer", "service.settings", "service.spans",
        "service.tls", "service.tokens", "service.tracing",
    },
    "service.doctor": LEAVES
    | {"service.arguments", "service.choice", "service.devices", "service.hardware",
       "service.layout", "service.machine", "service.manifest", "service.opening",
       "service.precedence", "service.session", "service.settings", "service.trial",
       "service.tuned", "service.wheels"},
    "service.cli": LEAVES
    | {"service.arguments", "service.cuda", "service.fallen", "service.keeping",
       "service.layout", "service.machine", "service.pins", "service.repository",
       "service.server", "service.settings"},
}  # fmt: skip

# What the other two packages may import from the service.
FROM_SERVICE = {
    "converter": {
        "datatypes",
        "devices",
        "errors",
        "hardware",
        "machine",
        "manifest",
        "opening",
        "rows",
        "session",
        "tuned",
    },
    "loadtests": {
        "batching",
        "bill",
        "choice",
        "cuda",
        "datatypes",
        "devices",
        "errors",
        "hardware",
        "latency",
        "layout",
        "ledger",
        "log",
        "machine",
        "manifest",
        "modelconfig",
        "nvml",
        "opened",
        "opening",
        "proto",
        "rows",
        "scheduler",
        "session",
        "settings",
        "tensors",
        "tuned",
    },
}

# Frameworks of trained models: in child processes, the zoo's lessons, and the baseline.
FRAMEWORKS = {"converter.exporters.*", "converter.zoo.*"}

# package -> the only modules that may import it; a star stands for all modules of a package
ROOMS = {
    "grpc": {
        "service.ports", "service.servicer", "service.streams", "service.control",
        "service.interceptor", "service.refusals", "service.tls", "service.following",
        "loadtests.users", "loadtests.client", "loadtests.openloop", "loadtests.pricing.questions",
        "loadtests.swarm.worker", "loadtests.bench.echo", "loadtests.bench.overload",
        "loadtests.bench.wire",
    },
    "grpc_health": {"service.health", "service.ports"},
    "grpc_reflection": {"service.ports"},
    "onnxruntime": {
        "service.session", "service.runtime", "service.trial", "service.values",
        "converter.halves", "converter.quantize", "converter.diagnosis",
    },
    "cuda": {"service.cuda"},
    "pynvml": {"service.nvml"},
    "prometheus_client": {
        "loadtests.pricing.scrape", "service.costs", "service.gpumetrics", "service.metrics",
        "service.tritonmetrics", "service.server",
    },
    "opentelemetry": {"service.otel", "service.otlp"},
    "locust": {"loadtests.users", "loadtests.swarm.__main__"},
    "gevent": {
        "loadtests.users", "loadtests.swarm.__main__", "loadtests.swarm.head",
        "loadtests.swarm.worker",
    },
    "asyncio": {
        "loadtests.baseline", "loadtests.openloop",
        "service.batcher", "service.callers", "service.cudaregions", "service.inplace",
        "service.instances", "service.repository", "service.streams", "service.server",
        "service.cli", "service.health", "service.interceptor",
    },
    "tensorflow": FRAMEWORKS | {"loadtests.baseline"},
    "tf2onnx": {"converter.exporters.tf_graph"},
    "tf_keras": {"converter.exporters.keras2_model"},
    "keras": FRAMEWORKS | {"loadtests.baseline"},
    "torch": FRAMEWORKS,
    "transformers": FRAMEWORKS,
    "skl2onnx": {"converter.exporters.sklearn_model"},
    "sklearn": FRAMEWORKS,
    "joblib": FRAMEWORKS | {"converter.live"},
    "onnxslim": {"converter.cleaning", "converter.pruning.*"},
    "typer": {
        "converter.cli", "loadtests.cli", "loadtests.reports.compare", "loadtests.loadverb",
        "loadtests.plans.planning", "loadtests.pricing.pricelist", "loadtests.reports.report",
        "loadtests.tuning.tune", "loadtests.pricing.unitcost",
    },
    "rich": {
        "converter.cli", "converter.tables", "loadtests.cli", "loadtests.reports.compare",
        "loadtests.loadverb", "loadtests.plans.planning", "loadtests.plans.plantables",
        "loadtests.pricing.pricelist", "loadtests.reports.report", "loadtests.screen",
        "loadtests.tuning.tune", "loadtests.pricing.unitcost", "loadtests.pricing.unittables",
        "converter.zoo.*",
    },
    "plotly": {"loadtests.reports.plots"},
    "jinja2": {"loadtests.reports.page"},
    "yaml": {"loadtests.plans.overlay", "loadtests.prices"},
}  # fmt: skip
