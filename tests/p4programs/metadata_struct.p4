// SPDX-License-Identifier: Apache-2.0
// Fields of metadata, in a struct of its own, begin at zero and last until egress.
#define HAS_EGRESS
#include "begin.p4"

struct Meta {
    bit<8> z;
}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.b = m.z;
        m.z = h.data.a;
    }
}

EGRESS {
    apply {
        h.data.c = (bit<16>)m.z;
    }
}

#include "end.p4"
