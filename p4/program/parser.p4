// SPDX-License-Identifier: Apache-2.0
//
// From bytes to headers and back. The parser rejects nothing: what it cannot read stays without
// the header it should have, and the ingress control counts it under the right reason.

#ifndef FLOWFERRY_PARSER
#define FLOWFERRY_PARSER

#include "headers.p4"

parser packet_parser(
    packet_in packet,
    out headers_t hdr,
    inout metadata_t meta,
    inout standard_metadata_t standard_metadata)
{
    state start {
        transition select(standard_metadata.ingress_port) {
            CPU_PORT: parse_packet_out;
            default:  parse_ethernet;
        }
    }

    state parse_packet_out {
        packet.extract(hdr.packet_out);
        transition parse_ethernet;
    }

    state parse_ethernet {
        packet.extract(hdr.ethernet);
        transition select(hdr.ethernet.ether_type) {
            ETHERTYPE_IPV4: parse_ipv4;
            ETHERTYPE_ARP:  parse_arp;
            default:        accept;
        }
    }

    state parse_arp {
        packet.extract(hdr.arp);
        transition accept;
    }

    // With options, or in a later fragment, the next bytes are no TCP or UDP header.
    state parse_ipv4 {
        packet.extract(hdr.ipv4);
        transition select(
            hdr.ipv4.version, hdr.ipv4.header_words, hdr.ipv4.fragment_offset, hdr.ipv4.protocol)
        {
            (4, 5, 0, PROTOCOL_TCP): parse_tcp;
            (4, 5, 0, PROTOCOL_UDP): parse_udp;
            default:                 accept;
        }
    }

    state parse_tcp {
        packet.extract(hdr.tcp);
        transition accept;
    }

    state parse_udp {
        packet.extract(hdr.udp);
        transition accept;
    }
}

control packet_deparser(packet_out packet, in headers_t hdr)
{
    apply {
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.arp);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.tcp);
        packet.emit(hdr.udp);
    }
}

#endif
