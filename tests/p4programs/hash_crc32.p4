// SPDX-License-Identifier: Apache-2.0
// CRC-32.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        hash(h.data.d, HashAlgorithm.crc32, 32w0, { h.data.a, h.data.b, h.data.c }, 64w0x100000000);
    }
}

#include "end.p4"
