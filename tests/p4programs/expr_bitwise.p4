// SPDX-License-Identifier: Apache-2.0
// And, or, exclusive or and complement.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = h.data.a & 0x3c;
        h.data.b = h.data.b | 0x81;
        h.data.c = h.data.c ^ 0xff00;
        h.data.d = ~h.data.d;
    }
}

#include "end.p4"
