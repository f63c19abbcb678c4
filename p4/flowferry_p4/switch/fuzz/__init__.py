# SPDX-License-Identifier: Apache-2.0
"""Compares compiled programs with the interpreter: `python -m flowferry_p4.switch.fuzz PROGRAM`.

generate    entries and packets, random but likely to meet
compare     one program, round after round, through both
"""
