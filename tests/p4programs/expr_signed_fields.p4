// SPDX-License-Identifier: Apache-2.0
// Header fields that are signed keep their sign through arithmetic and comparison.
#include "begin.p4"

struct Meta {}

header data_t {
    int<8> a;
    int<16> b;
    bit<8> result;
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
        h.data.result = 0;
        if (h.data.a < 0) { h.data.result = 1; }
        if (h.data.b > -2) { h.data.result = h.data.result | 2; }
        h.data.b = h.data.b + (int<16>)h.data.a;
        h.data.a = -h.data.a;
    }
}

#include "end.p4"
