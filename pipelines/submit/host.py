"""Starts `deeplab` on one of several hosts of a job of Vertex AI: python -m pipelines.submit.host train ...

Vertex AI gives all hosts the same command, and CLUSTER_SPEC, from which each host finds its number
(docs.cloud.google.com/gemini-enterprise-agent-platform/machine-learning/training/distributed-training).
"""

from __future__ import annotations

import json
import os
import sys

from pipelines.submit.plan import own_flags


def host_flags(spec: str) -> list[str]:
    """The flags of this host: the number of hosts, its own number, and the address of the first one.

    Args:
      spec: CLUSTER_SPEC, with the addresses of all hosts by pool, and the pool and index of this one.
    """
    value = json.loads(spec)
    places = [(pool, place) for pool in sorted(value["cluster"]) for place in range(len(value["cluster"][pool]))]
    number = places.index((value["task"]["type"], int(value["task"]["index"])))
    first = value["cluster"][places[0][0]][0]
    return [*own_flags(len(places), number, first)]


if __name__ == "__main__":
    os.execvp("deeplab", ["deeplab", *sys.argv[1:], *host_flags(os.environ["CLUSTER_SPEC"])])
