// SPDX-License-Identifier: Apache-2.0
// Arithmetic on 128 bits.
#include "begin.p4"

struct Meta {}

header data_t {
    bit<128> a;
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
        s.egress_spec = h.data.a < h.data.b ? 9w2 : 9w3;
        h.data.a = h.data.a + h.data.b;
        h.data.b = (h.data.b << 68) | (h.data.b >> 60);
    }
}

#include "end.p4"
