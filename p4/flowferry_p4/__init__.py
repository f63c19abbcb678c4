# SPDX-License-Identifier: Apache-2.0
"""How Flowferry moves traffic: a P4Runtime client and an embedded P4 target.

This package knows nothing of Ansible and of container runtimes.
"""
