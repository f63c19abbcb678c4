# SPDX-License-Identifier: Apache-2.0
"""The demo, and what it reaches the lab with; benchmark and system tests use that as well."""
