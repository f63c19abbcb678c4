// SPDX-License-Identifier: Apache-2.0
// Comparisons of unsigned values.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        bit<8> r = 0;
        s.egress_spec = 2;
        if (h.data.a < h.data.b) { r = r | 1; }
        if (h.data.a <= h.data.b) { r = r | 2; }
        if (h.data.a > h.data.b) { r = r | 4; }
        if (h.data.a >= h.data.b) { r = r | 8; }
        if (h.data.a == h.data.b) { r = r | 16; }
        if (h.data.a != h.data.b) { r = r | 32; }
        h.data.c[7:0] = r;
    }
}

#include "end.p4"
