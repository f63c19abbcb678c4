// SPDX-License-Identifier: Apache-2.0
// Signed values: comparison, arithmetic shift to the right, sign extension.
#include "begin.p4"

struct Meta {}

#include "data.p4"

INGRESS {
    apply {
        int<8> x = (int<8>)h.data.a;
        int<8> y = (int<8>)h.data.b;
        s.egress_spec = 2;
        h.data.c = 0;
        if (x < y) { h.data.c = 1; }
        h.data.d = (bit<32>)(int<32>)x;
        h.data.a = (bit<8>)(x >> 1);
        h.data.b = (bit<8>)(x - y);
    }
}

#include "end.p4"
