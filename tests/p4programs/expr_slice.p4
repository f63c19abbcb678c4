// SPDX-License-Identifier: Apache-2.0
// Slices are read and written.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = h.data.d[23:16];
        h.data.b[7:4] = h.data.d[3:0];
        h.data.c[11:4] = h.data.d[31:24];
    }
}

#include "end.p4"
