// SPDX-License-Identifier: Apache-2.0
// Saturating arithmetic stops at the ends of the range, unsigned and signed.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = h.data.a |+| h.data.b;
        h.data.c = 100 |-| h.data.c;
        h.data.d[15:8] = (bit<8>)((int<8>)h.data.d[31:24] |+| (int<8>)h.data.d[23:16]);
        h.data.d[7:0] = (bit<8>)((int<8>)h.data.d[31:24] |-| (int<8>)h.data.d[23:16]);
    }
}

#include "end.p4"
