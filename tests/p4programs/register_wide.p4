// SPDX-License-Identifier: Apache-2.0
// A register of 128 bits.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    register<bit<128>>(1) cells;

    apply {
        bit<128> value;
        s.egress_spec = 2;
        cells.read(value, 0);
        h.data.c = (bit<16>)(value >> 96);
        cells.write(0, (value << 32) | (bit<128>)h.data.d);
    }
}

#include "end.p4"
