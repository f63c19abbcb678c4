// SPDX-License-Identifier: Apache-2.0
//
// From headers to bytes, and the checksums of what the program changed: the sum of what it kept,
// from the parser, and what it wrote.

#ifndef FLOWFERRY_TOFINO_DEPARSER
#define FLOWFERRY_TOFINO_DEPARSER

control ingress_deparser(
    packet_out packet,
    inout headers_t hdr,
    in local_t local,
    in ingress_intrinsic_metadata_for_deparser_t for_deparser)
{
    Checksum() ipv4_checksum;
    Checksum() tcp_checksum;
    Checksum() tcp_ipv6_checksum;
    Checksum() udp_checksum;
    Checksum() udp_ipv6_checksum;
    Checksum() icmpv6_checksum;
    Checksum() advertised_checksum;
    Checksum() advertised_bare_checksum;

    apply {
        if (local.forwarded && hdr.ipv4.isValid()) {
            hdr.ipv4.checksum = ipv4_checksum.update({
                hdr.ipv4.version,
                hdr.ipv4.header_words,
                hdr.ipv4.traffic_class,
                hdr.ipv4.total_length,
                hdr.ipv4.identification,
                hdr.ipv4.reserved,
                hdr.ipv4.dont_fragment,
                hdr.ipv4.more_fragments,
                hdr.ipv4.fragment_offset,
                hdr.ipv4.ttl,
                hdr.ipv4.protocol,
                hdr.ipv4.source,
                hdr.ipv4.destination
            });
        }
        if (local.rewritten && hdr.ipv4.isValid() && hdr.tcp.isValid()) {
            hdr.tcp.checksum = tcp_checksum.update({
                hdr.ipv4.source,
                hdr.ipv4.destination,
                hdr.tcp.source_port,
                hdr.tcp.destination_port,
                local.payload_sum
            });
        }
        if (local.rewritten && hdr.ipv6.isValid() && hdr.tcp.isValid()) {
            hdr.tcp.checksum = tcp_ipv6_checksum.update({
                hdr.ipv6.source,
                hdr.ipv6.destination,
                hdr.tcp.source_port,
                hdr.tcp.destination_port,
                local.payload_sum
            });
        }
        if (local.rewritten && local.checked && hdr.ipv4.isValid() && hdr.udp.isValid()) {
            hdr.udp.checksum = udp_checksum.update({
                hdr.ipv4.source,
                hdr.ipv4.destination,
                hdr.udp.source_port,
                hdr.udp.destination_port,
                local.payload_sum
            }, true);
        }
        if (local.rewritten && local.checked && hdr.ipv6.isValid() && hdr.udp.isValid()) {
            hdr.udp.checksum = udp_ipv6_checksum.update({
                hdr.ipv6.source,
                hdr.ipv6.destination,
                hdr.udp.source_port,
                hdr.udp.destination_port,
                local.payload_sum
            }, true);
        }
        if (local.rewritten && hdr.icmpv6.isValid()) {
            hdr.icmpv6.checksum = icmpv6_checksum.update({
                hdr.ipv6.source,
                hdr.ipv6.destination,
                local.payload_sum
            });
        }
        if (local.advertised && hdr.link_address.isValid()) {
            hdr.neighbor.checksum = advertised_checksum.update({
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                hdr.ipv6.payload_length,
                24w0,
                hdr.ipv6.next_header,
                hdr.neighbor.type,
                hdr.neighbor.code,
                hdr.neighbor.flags,
                hdr.neighbor.target,
                hdr.link_address.type,
                hdr.link_address.length,
                hdr.link_address.mac
            });
        }
        if (local.advertised && !hdr.link_address.isValid()) {
            hdr.neighbor.checksum = advertised_bare_checksum.update({
                hdr.ipv6.source,
                hdr.ipv6.destination,
                16w0,
                hdr.ipv6.payload_length,
                24w0,
                hdr.ipv6.next_header,
                hdr.neighbor.type,
                hdr.neighbor.code,
                hdr.neighbor.flags,
                hdr.neighbor.target
            });
        }
        packet.emit(hdr.packet_in);
        packet.emit(hdr.ethernet);
        packet.emit(hdr.arp);
        packet.emit(hdr.ipv4);
        packet.emit(hdr.ipv6);
        packet.emit(hdr.ipv6_fragment);
        packet.emit(hdr.tcp);
        packet.emit(hdr.udp);
        packet.emit(hdr.icmpv6);
        packet.emit(hdr.neighbor);
        packet.emit(hdr.link_address);
    }
}

#endif
