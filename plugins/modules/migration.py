#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

DOCUMENTATION = r"""
module: migration
short_description: Move a container to another node with its connections
version_added: 0.1.0
description:
  - Freezes a Podman container on its node, restores it on another one, and has the P4 switch hold
    and then redirect its packets, so that established connections go on.
  - Every failure before the redirect is rolled back, and the source serves on. A migration whose
    controller died is finished or rolled back by the next run.
  - Runs on the controller. M(flowferry.core.migration_helper) has to be started on the nodes first;
    the playbook C(flowferry.core.migrate) does both.
options:
  workload:
    description: What to move, written RUNTIME:NAME, or the name of a Podman container.
    type: str
    required: true
  destination:
    description: Name of the node to move it to, a key of O(nodes).
    type: str
    required: true
  nodes:
    description:
      - The nodes that take part, by name. Each has C(address) and C(port) of its helper, its
        C(switch_port), and the C(mac) address to which the switch sends the endpoint's packets.
        One that has a switch of its own has C(switch), too, with C(address), C(device_id) and
        C(tls) as in O(switch).
    type: dict
    required: true
  switch:
    description:
      - C(address) (host:port) and C(device_id) of the P4Runtime server, and its C(target), by which
        the plan knows what it may rely on. That is C(embedded) when it is left out, C(bmv2),
        C(tofino2), C(bluefield), or the path of a file like theirs (C(p4/flowferry_p4/targets)).
      - C(tls) secures the connection. It has paths on the controller, C(ca), whom the switch's
        certificate is checked by (the machine's own authorities where it is left out), C(cert) and
        C(key) of the controller, where the switch asks for them, and C(server_name), the name in
        the switch's certificate where that is not the host of C(address).
      - On a target without a CPU port the hold drops packets. The plan says what that costs.
    type: dict
    required: true
  certificates:
    description: The one-time certificates that the helpers were started with.
    type: dict
    required: true
  strategy:
    description:
      - V(keep) gives the workload's address to the destination.
      - V(rewrite) gives the workload another address and edits its checkpoint. Clients have to
        reach it by a virtual address that the switch translates (tables C(service), C(bucket),
        C(backend) and C(reply)); that stays the same.
    type: str
    choices: [keep, rewrite]
    default: keep
  destination_address:
    description:
      - The address that the workload gets under O(strategy=rewrite), or an IPv4 and an IPv6 address
        with a comma between them, if it has both. Not needed when the
        destination has the workload's namespace with an address already, nor for a pod, to which
        the destination's pod network then gives one.
    type: str
  volumes:
    description:
      - What becomes of named volumes and bind mounts, anonymous volumes among them.
      - With V(shared) the destination must have them already. Proof is the same storage on both
        nodes, by the same name or path; for what the container can only read, of at most 64 MiB,
        the same content will do. Anything else is refused.
      - With V(copy) those that the destination lacks are copied while the workload serves, and what
        has changed since inside the hold. Nothing that somebody else has on the destination is
        overwritten. What remains on the source is marked as left, and brought up to date when the
        workload comes back.
    type: str
    choices: [shared, copy]
    default: shared
  method:
    description:
      - How a pod is moved. V(kubelet) asks the kubelet for a checkpoint and makes the copy of that.
      - V(direct) makes the copy of the pod's own image with a placeholder in it, into which the
        processes go straight from the source, without kubelet, image or registry while packets are
        held. The plan refuses pods that it cannot move so, and says why.
      - V(auto) chooses V(direct) where it is possible, and V(kubelet) elsewhere; the result says
        which, and RV(why).
    type: str
    choices: [kubelet, direct, auto]
    default: auto
  memory:
    description:
      - When the workload's memory is brought over. With V(stop-and-copy) the copy has all of it
        before it runs, and until the redirect a failure leaves the source serving.
      - With V(post-copy) the copy runs first, and large memory follows it - what it touches before
        everything else. The time for which packets are held hardly depends on the memory then.
        B(There is no way back) for what clients are told until it has all - if a node or the
        connection between them fails in that time (RV(phases), C(settle)), the source goes on from
        where it stood still, and connections break.
      - V(post-copy) is known for pods that move directly, and for plain processes; it needs
        userfaultfd(2) on the destination, and makes no difference where little memory can go apart.
    type: str
    choices: [stop-and-copy, post-copy]
    default: stop-and-copy
  kubeconfig:
    description:
      - File on the controller that says how to reach the cluster, for a workload that is a pod.
    type: str
    default: ""
  unavailable:
    description:
      - Why nodes of the inventory take no part, by name. They stop no migration between others;
        the reason is told when one of them is the destination.
    type: dict
    default: {}
  accept_timeout:
    description:
      - How long (in seconds) the program may take to accept the connections that its kernel has
        taken when the hold begins, as they could not be moved. New ones wait at the switch
        meanwhile, and others go on. When the time is over the migration is rolled back.
    type: float
    default: 0.5
  metrics:
    description:
      - File on the controller, C(NAME.prom), in which migrations are counted for Prometheus, with
        how they ended and how long their phases took. Node exporter's textfile collector serves
        such files.
      - When it cannot be written, that is a warning.
    type: path
attributes:
  check_mode:
    description: Makes the full plan, with all its checks, and touches nothing.
    support: full
  diff_mode:
    description: Nothing to compare; the plan is returned.
    support: none
  idempotent:
    description: A workload that is on its destination already is left alone.
    support: full
author:
  - The Flowferry authors (@flowferry)
"""

EXAMPLES = r"""
- name: Move Redis to node2
  flowferry.core.migration:
    workload: redis
    destination: node2
    nodes:
      node1: {address: 198.18.0.11, port: 40001, switch_port: 1, mac: "02:ff:00:00:00:0b"}
      node2: {address: 198.18.0.12, port: 40002, switch_port: 2, mac: "02:ff:00:00:00:0c"}
    switch: {address: "198.18.0.2:9559", device_id: 1}
    certificates: "{{ migration_certificates.certificates }}"
  delegate_to: localhost
"""

RETURN = r"""
phases:
  description:
    - The phases of the move in order, with their times in milliseconds (C(ms)), and how much of
      that was processor time of this collection's own code (C(own_ms)). The rest is that of CRIU,
      the kernel, the network and the switch.
  returned: when moved
  type: list
  elements: dict
  sample: [{name: hold, ms: 8.1, own_ms: 1.2}, {name: checkpoint, ms: 77.0, own_ms: 2.8}]
hold_ms:
  description: Time in milliseconds from the first packet that is held to the release.
  returned: when moved
  type: float
own_ms:
  description: How many milliseconds of the hold were processor time of this collection's own code.
  returned: when moved
  type: float
image_bytes:
  description: Size of the checkpoint in bytes.
  returned: when moved
  type: int
memory_bytes:
  description: Bytes of memory that have followed the copy.
  returned: when memory followed
  type: int
memory_faults:
  description: How often the copy touched memory that it did not have, or that was empty.
  returned: when memory followed
  type: int
memory_longest_ms:
  description: The longest time in milliseconds that the copy waited for memory which it touched.
  returned: when memory followed
  type: float
volume_bytes:
  description: Bytes of content that were sent for volumes, in all passes.
  returned: when volumes were copied
  type: int
volume_bytes_held:
  description:
    - Those of them that had to be sent inside the hold. Many mean that the volumes change fast,
      and that the hold lasted longer for it.
  returned: when volumes were copied
  type: int
held_packets:
  description: Packets that were buffered by the hold and delivered.
  returned: when moved
  type: int
overflow_packets:
  description: Packets that did not fit the buffer and were dropped.
  returned: when moved
  type: int
method:
  description: How the pod was moved, V(direct) or V(kubelet).
  returned: for a pod that is not on its destination yet
  type: str
way:
  description:
    - How the copy of a pod comes by its checkpoint. V(waiting) is made before the hold, and its
      runtime waits for the image; V(cold) is made inside it. V(direct) needs no image.
  returned: for a pod that is not on its destination yet
  type: str
  sample: waiting
why:
  description: Why it is this way.
  returned: for a pod that is not on its destination yet
  type: str
source:
  description: The node where the workload was.
  returned: success
  type: str
plan:
  description:
    - What was resolved before anything was touched. C(about.volumes) has each volume, with the
      C(way) that it gets to the destination (C(shared), C(identical) or C(copy)), and for a copy
      its C(size) and number of C(files).
  returned: when the workload is not on its destination yet
  type: dict
recovered:
  description: What was done about an unfinished earlier migration; empty when there was none.
  returned: success
  type: str
failure:
  description: C(code), C(message) and C(details) of what went wrong.
  returned: failure
  type: dict
"""
