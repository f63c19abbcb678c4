// SPDX-License-Identifier: Apache-2.0
// A register is read, changed and written; what is out of its range is not.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    register<bit<16>>(8) cells;

    apply {
        bit<16> value;
        s.egress_spec = 2;
        cells.read(value, (bit<32>)h.data.a);
        value = value + 1;
        cells.write((bit<32>)h.data.a, value);
        h.data.c = value;
    }
}

#include "end.p4"
