// SPDX-License-Identifier: Apache-2.0
// Values side by side.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.d = h.data.a ++ h.data.c ++ h.data.b;
        h.data.c = h.data.a[3:0] ++ 8w0xee ++ h.data.b[7:4];
    }
}

#include "end.p4"
