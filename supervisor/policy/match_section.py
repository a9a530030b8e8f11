"""What `match` of a policy looks like."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

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


def _key(doc: str) -> Any:
    return Field(None, description=doc)


class Strict(BaseModel):
    """A section: of the keys it has, and of no others."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)


class KubernetesSection(Strict):
    """Names that the runtime of a Kubernetes node gives a container."""

    namespace: Texts | None = _key("the namespace of the pod")
    pod: Texts | None = _key("the name of the pod")
    container: Texts | None = _key("the name of the container in it")


class MatchSection(Strict):
    """Whom a policy applies to where no --policy names one."""

    door: Doors | None = _key("the way by which a container comes; attach has to be named")
    runtime: Texts | None = _key("the name of the process that handed the listener over")
    container: Texts | None = _key("the id of the container")
    metadata: Texts | None = _key("the text that the seccomp profile of the container has for us")
    cookie: Texts | None = _key("the text that LXC's configuration has for us")
    annotations: dict[str, Texts] = Field({}, description="what annotations are, by their keys")
    kubernetes: KubernetesSection | None = _key("names that Kubernetes gives")
    peer_uid: Ids | None = _key("the uid of who handed the listener over, as the host numbers it")
    peer_gid: Ids | None = _key("the same for its gid")
    cgroup: Globs | None = _key("the cgroup of the container, as a glob")
    user_namespace: UserNamespaces = Field(
        ["own"], description="whether the container has one of its own; host: it is the daemon's"
    )

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
