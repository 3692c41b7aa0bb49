//! Which addresses are out on the internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is no host of the public internet, by IANA's registry of special-purpose IPv4 addresses, and
/// where clouds serve their machines' credentials. The first that fits gives the name.
const V4: [([u8; 4], u32, &str); 21] = [
    ([169, 254, 169, 254], 32, "cloud metadata"),
    // Alibaba Cloud.
    ([100, 100, 100, 200], 32, "cloud metadata"),
    // Azure: in a public block, and yet answered by the machine's own host.
    ([168, 63, 129, 16], 32, "cloud metadata"),
    // Oracle Cloud.
    ([192, 0, 0, 192], 32, "cloud metadata"),
    ([0, 0, 0, 0], 32, "unspecified"),
    ([255, 255, 255, 255], 32, "broadcast"),
    ([0, 0, 0, 0], 8, "reserved"),
    ([10, 0, 0, 0], 8, "private"),
    ([100, 64, 0, 0], 10, "carrier-grade NAT"),
    ([127, 0, 0, 0], 8, "loopback"),
    ([169, 254, 0, 0], 16, "link-local"),
    ([172, 16, 0, 0], 12, "private"),
    ([192, 0, 0, 0], 24, "reserved"),
    ([192, 0, 2, 0], 24, "documentation"),
    // The relays of 6to4.
    ([192, 88, 99, 0], 24, "reserved"),
    ([192, 168, 0, 0], 16, "private"),
    ([198, 18, 0, 0], 15, "benchmarking"),
    ([198, 51, 100, 0], 24, "documentation"),
    ([203, 0, 113, 0], 24, "documentation"),
    ([224, 0, 0, 0], 4, "multicast"),
    ([240, 0, 0, 0], 4, "reserved"),
];

/// The same for IPv6. What is not here is public if it is in 2000::/3, all that is assigned so far.
const V6: [([u16; 8], u32, &str); 13] = [
    // AWS, Google Cloud.
    ([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    ([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, "cloud metadata"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 128, "unspecified"),
    ([0, 0, 0, 0, 0, 0, 0, 1], 128, "loopback"),
    ([0, 0, 0, 0, 0, 0, 0, 0], 96, "IPv4-compatible"),
    // Teredo, ORCHID and other tunnels and identifiers.
    ([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "reserved"),
    ([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, "documentation"),
    // Deprecated, and a way around the table above: it tunnels to the IPv4 address in it.
    ([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4"),
    ([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, "documentation"),
    ([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, "unique-local"),
    ([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "link-local"),
    ([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "site-local"),
    ([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast"),
];

/// Returns what kind of address this is, or `None` if it belongs to the public internet.
///
/// An address that stands for an IPv4 one (IPv4-mapped, and NAT64 with its well-known prefix) is what
/// that one is.
pub(crate) fn not_public(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => not_public_v4(address),
        IpAddr::V6(address) => match stands_for(address) {
            Some(address) => not_public_v4(address),
            None => not_public_v6(address),
        },
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<&'static str> {
    let differ = |net: [u8; 4]| address.to_bits() ^ Ipv4Addr::from(net).to_bits();
    let found = V4.iter().find(|(net, prefix, _)| differ(*net).leading_zeros() >= *prefix);
    found.map(|(.., kind)| *kind)
}

fn not_public_v6(address: Ipv6Addr) -> Option<&'static str> {
    let differ = |net: [u16; 8]| address.to_bits() ^ Ipv6Addr::from(net).to_bits();
    let found = V6.iter().find(|(net, prefix, _)| differ(*net).leading_zeros() >= *prefix);
    let assigned = differ([0x2000, 0, 0, 0, 0, 0, 0, 0]).leading_zeros() >= 3;
    found.map(|(.., kind)| *kind).or((!assigned).then_some("reserved"))
}

/// Returns the IPv4 address that a packet to this one ends at.
fn stands_for(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let embedded = Ipv4Addr::from_bits(address.to_bits() as u32);
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] => Some(embedded),
        // RFC 6052. The prefixes of 64:ff9b:1::/48 are each network's own, and not public.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(embedded),
        _ => None,
    }
}
