# SPDX-License-Identifier: Apache-2.0
"""What a migration costs: measured, written down, drawn. playbooks/benchmark.yml runs it."""
