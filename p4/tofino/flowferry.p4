// SPDX-License-Identifier: Apache-2.0
//
// Flowferry's data plane for Tofino 2: the tables of p4/program, by the same names, with the same
// keys, actions and parameters, so that clients do not know the difference. Numbers and headers are
// p4/program's own files. What differs is in docs/targets.md.

#include <core.p4>
#include <t2na.p4>

#include "../program/constants.p4"
#include "../program/headers.p4"
#include "metadata.p4"
#include "parser.p4"
#include "deparser.p4"
#include "ingress.p4"

// Everything is decided at ingress, and egress is passed by.
parser egress_parser(
    packet_in packet,
    out headers_t hdr,
    out local_t local,
    out egress_intrinsic_metadata_t intrinsic)
{
    state start {
        packet.extract(intrinsic);
        transition accept;
    }
}

control egress(
    inout headers_t hdr,
    inout local_t local,
    in egress_intrinsic_metadata_t intrinsic,
    in egress_intrinsic_metadata_from_parser_t from_parser,
    inout egress_intrinsic_metadata_for_deparser_t for_deparser,
    inout egress_intrinsic_metadata_for_output_port_t for_port)
{
    apply { }
}

control egress_deparser(
    packet_out packet,
    inout headers_t hdr,
    in local_t local,
    in egress_intrinsic_metadata_for_deparser_t for_deparser)
{
    apply { }
}

Pipeline(
    ingress_parser(),
    ingress(),
    ingress_deparser(),
    egress_parser(),
    egress(),
    egress_deparser()) pipe;

@pkginfo(name = "flowferry", version = "1.2.0")
Switch(pipe) main;
