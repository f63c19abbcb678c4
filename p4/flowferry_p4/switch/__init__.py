# SPDX-License-Identifier: Apache-2.0
"""The embedded P4 target: BMv2 JSON compiled to eBPF on tc, filled through P4Runtime."""
