"""What compose.yaml and the manifests may hold: the parts of both formats that are used, and nothing else.

Reduced from the Compose specification and from the API of Kubernetes (apps/v1, v1, networking.k8s.io/v1). What is not
listed is refused, so that a mistyped name is found.
"""

from typing import Any

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NAME: Schema = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}
TEXTS: Schema = {"type": "array", "items": TEXT, "minItems": 1}
WHOLE: Schema = {"type": "integer", "minimum": 0}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
TRUTH: Schema = {"type": "boolean"}
QUANTITY: Schema = {"type": "string", "pattern": r"^\d+(Mi|Gi|Ti)$"}
TEXTS_BY_NAME: Schema = {"type": "object", "additionalProperties": TEXT}


def fields(required: Schema, **optional: Schema) -> Schema:
    return {
        "type": "object", "properties": {**required, **optional}, "required": list(required),
        "additionalProperties": False,
    }  # fmt: skip


def many(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


def named(of: Schema) -> Schema:
    return {"type": "object", "additionalProperties": of, "propertyNames": NAME}


COMPOSE = fields(
    {
        "services": named(
            fields(
                {"image": TEXT},
                build=fields({"context": TEXT}, dockerfile=TEXT),
                command=TEXTS,
                environment={
                    "type": "object",
                    "additionalProperties": TEXT,
                    "propertyNames": {"pattern": "^[A-Z_0-9]+$"},
                },
                ports=many({"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}),
                volumes=many({"type": "string", "pattern": r"^[a-z]+:/[\w/]+$"}),
                configs=many(fields({"source": NAME, "target": TEXT})),
                restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
                depends_on=named(
                    fields({"condition": {"enum": ["service_healthy", "service_completed_successfully"]}})
                ),
                healthcheck=fields({"test": TEXTS}, interval={"type": "string", "pattern": r"^\d+s$"}, retries=WHOLE),
            )
        )
    },
    name=NAME,
    configs=named(fields({"content": TEXT})),
    volumes=named({"type": "null"}),
)
COMPOSE["patternProperties"] = {"^x-": {"type": "object"}}

METADATA = fields({"name": NAME}, labels=TEXTS_BY_NAME)
VARIABLE = fields(
    {"name": {"type": "string", "pattern": "^[A-Z_0-9]+$"}},
    value=TEXT,
    valueFrom=fields({"secretKeyRef": fields({"name": NAME, "key": TEXT})}),
)
PROBE = fields(
    {"periodSeconds": WHOLE},
    httpGet=fields({"path": TEXT, "port": PORT}, httpHeaders=many(fields({"name": TEXT, "value": TEXT}))),
    tcpSocket=fields({"port": PORT}),
    exec=fields({"command": TEXTS}),
)
CONTAINER = fields(
    {
        "name": NAME,
        "image": TEXT,
        "securityContext": fields(
            {"allowPrivilegeEscalation": {"const": False}, "capabilities": fields({"drop": TEXTS})}
        ),
    },
    command=TEXTS,
    env=many(VARIABLE),
    ports=many(fields({"name": NAME, "containerPort": PORT})),
    readinessProbe=PROBE,
    volumeMounts=many(fields({"name": NAME, "mountPath": TEXT})),
)
VOLUME = fields({"name": NAME}, emptyDir=fields({}, medium={"enum": ["Memory"]}), configMap=fields({"name": NAME}))
POD = fields(
    {
        "automountServiceAccountToken": {"const": False},
        "securityContext": fields({"runAsNonRoot": {"const": True}, "runAsUser": WHOLE}, fsGroup=WHOLE),
        "containers": many(CONTAINER),
    },
    enableServiceLinks=TRUTH,
    initContainers=many(CONTAINER),
    volumes=many(VOLUME),
)
RUNS: Schema = {
    "replicas": WHOLE,
    "selector": fields({"matchLabels": TEXTS_BY_NAME}),
    "template": fields({"metadata": fields({"labels": TEXTS_BY_NAME}), "spec": POD}),
}
CLAIM = fields({
    "metadata": METADATA,
    "spec": fields({
        "accessModes": many({"enum": ["ReadWriteOnce"]}),
        "resources": fields({"requests": fields({"storage": QUANTITY})}),
    }),
})  # fmt: skip


def _kind(version: str, spec: Schema, **more: Schema) -> Schema:
    return fields({"apiVersion": {"const": version}, "kind": TEXT, "metadata": METADATA, **spec}, **more)


KINDS: dict[str, Schema] = {
    "Deployment": _kind("apps/v1", {"spec": fields(RUNS)}),
    "StatefulSet": _kind("apps/v1", {"spec": fields({**RUNS, "serviceName": NAME}, volumeClaimTemplates=many(CLAIM))}),
    "Service": _kind("v1", {"spec": fields(
        {"selector": TEXTS_BY_NAME, "ports": many(fields({"name": NAME, "port": PORT, "targetPort": PORT}))},
        clusterIP={"const": "None"}, publishNotReadyAddresses=TRUTH,
    )}),
    "ConfigMap": _kind("v1", {"data": TEXTS_BY_NAME}),
    "NetworkPolicy": _kind("networking.k8s.io/v1", {"spec": fields({
        "podSelector": fields({}), "policyTypes": many({"enum": ["Ingress"]}),
        "ingress": many(fields({"from": many(fields({"podSelector": fields({})}))})),
    })}),
    "Kustomization": fields({
        "apiVersion": {"const": "kustomize.config.k8s.io/v1beta1"}, "kind": TEXT, "namespace": NAME, "resources": TEXTS,
        "images": many(fields({"name": TEXT, "newName": TEXT, "newTag": TEXT})),
    }),
}  # fmt: skip
