# SPDX-License-Identifier: Apache-2.0
"""CNI: a pod's interface becomes a port of its node's switch.

``plugin`` is what a container runtime runs: a client, as small as it can be, of the agent on the
node, which does the work in ``operations``.
"""
