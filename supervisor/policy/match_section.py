"""What `match` of a policy looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, WithJsonSchema

from supervisor.policy.applies import KUBERNETES, Applies
from supervisor.policy.key_types import TEXT, Globs, Ids
from supervisor.policy.values import filled, parse_text

_DOOR = Literal["run", "oci", "lxc", "attach"]
_USER_NAMESPACE = Literal["own", "host"]
Texts = Annotated[
    list[Annotated[str, BeforeValidator(parse_text), WithJsonSchema(TEXT)]],
    BeforeValidator(filled),
]


class Strict(BaseModel):
    """A section: of the keys it has, and of no others."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)


class KubernetesSection(Strict):
    """Names that the runtime of a Kubernetes node gives a container."""

    namespace: Texts | None = None
    pod: Texts | None = None
    container: Texts | None = None


class MatchSection(Strict):
    """Whom a policy applies to where no --policy names one."""

    door: Annotated[list[_DOOR], BeforeValidator(filled)] | None = None
    runtime: Texts | None = None
    container: Texts | None = None
    metadata: Texts | None = None
    cookie: Texts | None = None
    annotations: dict[str, Texts] = {}
    kubernetes: KubernetesSection | None = None
    peer_uid: Ids | None = None
    peer_gid: Ids | None = None
    cgroup: Globs | None = None
    user_namespace: Annotated[list[_USER_NAMESPACE], BeforeValidator(filled)] = ["own"]

    def applies(self) -> Applies:
        """The predicate that this section is."""
        one = {
            name: _tuple(getattr(self, name))
            for name in ("door", "runtime", "container", "metadata", "cookie", "peer_uid",
                         "peer_gid", "cgroup", "user_namespace")
        }  # fmt: skip
        kubernetes = [
            (name, tuple(wanted))
            for name in KUBERNETES
            if (wanted := getattr(self.kubernetes, name, None)) is not None
        ]
        annotations = tuple((key, tuple(texts)) for key, texts in self.annotations.items())
        return Applies(**one, annotations=annotations, kubernetes=tuple(kubernetes))


def _tuple(values: list[Any] | None) -> Any:
    return None if values is None else tuple(values)
