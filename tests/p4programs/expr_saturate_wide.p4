// SPDX-License-Identifier: Apache-2.0
// Saturation at the widest types.
#include "begin.p4"

struct Meta {}

header data_t {
    bit<64> a;
    bit<128> b;
}

struct Headers {
    data_t data;
}

PARSER {
    state start {
        packet.extract(h.data);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.data);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = h.data.a |+| 2;
        h.data.b = h.data.b |-| 3;
    }
}

#include "end.p4"
