"""What `match` of a policy looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict

from supervisor.policy.applies import KUBERNETES, Applies
from supervisor.policy.keys import GLOB, ID, one_or_many
from supervisor.policy.match import IdRange
from supervisor.policy.values import filled, parse_glob, parse_ids, parse_text

Door = Literal["run", "oci", "lxc", "attach"]
UserNamespace = Literal["own", "host"]
Texts = Annotated[
    list[Annotated[str, BeforeValidator(parse_text)]],
    BeforeValidator(filled),
    one_or_many({"type": "string"}),
]
Ids = Annotated[
    list[Annotated[IdRange, BeforeValidator(parse_ids)]],
    BeforeValidator(filled),
    one_or_many({"anyOf": list(ID)}),
]
Globs = Annotated[
    list[Annotated[str, BeforeValidator(parse_glob)]],
    BeforeValidator(filled),
    one_or_many(GLOB),
]
Doors = Annotated[
    list[Door],
    BeforeValidator(filled),
    one_or_many({"enum": list(get_args(Door))}),
]
UserNamespaces = Annotated[
    list[UserNamespace],
    BeforeValidator(filled),
    one_or_many({"enum": list(get_args(UserNamespace))}),
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

    door: Doors | None = None
    runtime: Texts | None = None
    container: Texts | None = None
    metadata: Texts | None = None
    cookie: Texts | None = None
    annotations: dict[str, Texts] = {}
    kubernetes: KubernetesSection | None = None
    peer_uid: Ids | None = None
    peer_gid: Ids | None = None
    cgroup: Globs | None = None
    user_namespace: UserNamespaces = ["own"]

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
