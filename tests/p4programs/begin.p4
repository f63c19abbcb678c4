// SPDX-License-Identifier: Apache-2.0
// What every test program begins with.
#include <core.p4>
#include <v1model.p4>

#define INGRESS control ingress(inout Headers h, inout Meta m, inout standard_metadata_t s)
#define EGRESS control egress(inout Headers h, inout Meta m, inout standard_metadata_t s)
#define PARSER parser parse(packet_in packet, out Headers h, inout Meta m, inout standard_metadata_t s)
#define DEPARSER control deparse(packet_out packet, in Headers h)
#define VERIFY control verify_sums(inout Headers h, inout Meta m)
#define UPDATE control update_sums(inout Headers h, inout Meta m)
