// SPDX-License-Identifier: Apache-2.0
// A checksum over headers and payload is kept right when a header changes.
#define HAS_UPDATE
#include "begin.p4"

struct Meta {}

header sum_t {
    bit<16> a;
    bit<16> b;
    bit<16> checksum;
}

struct Headers {
    sum_t sum;
}

PARSER {
    state start {
        packet.extract(h.sum);
        transition accept;
    }
}

DEPARSER {
    apply {
        packet.emit(h.sum);
    }
}

UPDATE {
    apply {
        update_checksum_with_payload(true, { h.sum.a, h.sum.b }, h.sum.checksum, HashAlgorithm.csum16);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.sum.a = h.sum.a + 1;
    }
}

#include "end.p4"
