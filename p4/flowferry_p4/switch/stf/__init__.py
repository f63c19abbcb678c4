# SPDX-License-Identifier: Apache-2.0
"""Tests in STF, the form of p4c's own: `python -m flowferry_p4.switch.stf PROGRAM.json TEST.stf`.

    script      the text of a test, read into statements
    targets     the switch under test: ours, or a simple_switch_grpc that is given as a binary
    control     statements to P4Runtime, by the names of P4Info
    runner      the order of things, and what differed

A statement is a line; `#` begins a comment. Numbers are decimal, 0x, 0b, with `*` for digits that
do not matter, `VALUE/LENGTH` for a prefix, `LOW->HIGH` for a range, `VALUE&&&MASK`.

    add TABLE [PRIORITY] FIELD:VALUE ... ACTION(NAME:VALUE, ...) [= LABEL]
    setdefault TABLE ACTION(NAME:VALUE, ...)
    remove all | LABEL
    member PROFILE NUMBER ACTION(NAME:VALUE, ...)
    group PROFILE NUMBER MEMBER[:WEIGHT] ...
    value_set NAME VALUE[,VALUE ...] ...
    packet PORT BYTES
    expect PORT [BYTES [$]]        `*` is any digit; `$`: and nothing behind; no bytes: any packet
    no_packet                      nothing else may have left until here
    wait                           until everything that is expected so far has left
    mirroring_add SESSION PORT     mirroring_add_mc SESSION GROUP    mirroring_delete SESSION
    mc_mgrp_create GROUP           mc_node_create INSTANCE PORT ...  mc_node_associate GROUP NODE
    check_counter NAME(INDEX or $LABEL) [packets|bytes OPERATOR NUMBER]
    check_register NAME(INDEX) OPERATOR NUMBER
    counter_write NAME INDEX PACKETS BYTES       counter_read NAME INDEX
    register_write NAME INDEX VALUE              register_read NAME INDEX    register_reset NAME
    meter_set_rates NAME INDEX RATE:BURST ...    meter_get_rates NAME INDEX
    meter_array_set_rates NAME RATE:BURST ...    rates are units in a microsecond

The action of an indirect table's entry is `$member(number:N)` or `$group(number:N)`. A higher
priority wins. Each statement takes effect before the next; a packet has left, as far as it
is expected, before a statement other than `packet` and `expect`.
"""
