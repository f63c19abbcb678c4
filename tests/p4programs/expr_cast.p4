// SPDX-License-Identifier: Apache-2.0
// Casts cut and extend; a bool is one bit.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        s.egress_spec = 2;
        h.data.a = (bit<8>)h.data.c;
        h.data.d = (bit<32>)h.data.c;
        h.data.b = 7w0 ++ (bit<1>)(h.data.c == 0xabcd);
    }
}

#include "end.p4"
