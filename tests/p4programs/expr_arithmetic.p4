// SPDX-License-Identifier: Apache-2.0
// Sums, differences and products wrap at the width of their type.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = h.data.a + h.data.b;
        h.data.b = h.data.a - 200;
        h.data.c = h.data.c * 0x0101;
        h.data.d = -h.data.d;
    }
}

#include "end.p4"
