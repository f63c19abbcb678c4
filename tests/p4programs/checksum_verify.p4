// SPDX-License-Identifier: Apache-2.0
// A checksum of headers that is wrong shows in the standard metadata.
#define HAS_VERIFY
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

VERIFY {
    apply {
        verify_checksum(true, { h.sum.a, h.sum.b }, h.sum.checksum, HashAlgorithm.csum16);
    }
}

INGRESS {
    apply {
        s.egress_spec = 2;
        h.sum.a = (bit<16>)s.checksum_error;
    }
}

#include "end.p4"
