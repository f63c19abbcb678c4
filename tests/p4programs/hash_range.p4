// SPDX-License-Identifier: Apache-2.0
// A hash in a range that begins at a base.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        hash(h.data.d, HashAlgorithm.crc32, 32w1000, { h.data.a, h.data.b, h.data.c }, 64w10);
    }
}

#include "end.p4"
