// SPDX-License-Identifier: Apache-2.0
// Shifts by constants and by fields; what is shifted out is gone, and so is all of it.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.c = h.data.c << 4;
        h.data.d = h.data.d >> h.data.a;
        h.data.b = h.data.b << h.data.a;
    }
}

#include "end.p4"
