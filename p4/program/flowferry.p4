// SPDX-License-Identifier: Apache-2.0
//
// Flowferry's data plane for the v1model architecture: a router that can hold the traffic of an
// endpoint without losing a packet, turn it elsewhere with one table entry, and release it.
// IPv4 and IPv6; it runs unchanged on BMv2's simple_switch_grpc and on the embedded switch.

#include <core.p4>
#define V1MODEL_VERSION 20200408
#include <v1model.p4>

#include "constants.p4"
#include "headers.p4"
#include "parser.p4"
#include "checksums.p4"
#include "ingress.p4"

// Everything is decided at ingress: a packet has one way out.
control egress(
    inout headers_t hdr,
    inout metadata_t meta,
    inout standard_metadata_t standard_metadata)
{
    apply { }
}

@pkginfo(name = "flowferry", version = "1.2.0")
V1Switch(
    packet_parser(),
    checksum_verification(),
    ingress(),
    egress(),
    checksum_update(),
    packet_deparser()) main;
