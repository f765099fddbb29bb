//! Tenstorrent devices as the kernel shows them: driver, device files, cards, firmware, huge pages,
//! IOMMU. Nothing is opened.
//!
//! Versions are those of UMD 19a69fca, which the supported tt-metal (191d0eed) contains: it ends
//! with an exception for an older driver or firmware, and logs a warning for firmware newer than it
//! was tested with.

use super::host::Host;
use super::report::Check;

/// A board by the name in `--device`.
struct Board {
    name: &'static str,
    /// Device files, one for each chip on PCIe.
    devices: usize,
    /// What `tt_card_type` begins with; a single chip of a larger board serves, too.
    cards: &'static [&'static str],
    blackhole: bool,
}

const fn board(
    name: &'static str,
    devices: usize,
    cards: &'static [&'static str],
    blackhole: bool,
) -> Board {
    Board { name, devices, cards, blackhole }
}

const BOARDS: &[Board] = &[
    board("n150", 1, &["n150", "n300"], false),
    board("n300", 1, &["n300"], false),
    board("t3k", 4, &["n300"], false),
    board("p150", 1, &["p150", "p300"], true),
    board("p300", 2, &["p300"], true),
    board("quietbox", 4, &["p150", "p300"], true),
    board("loudbox", 8, &["p150", "p300"], true),
];

/// Oldest driver with an IOMMU, and the oldest without remarks by UMD.
const KMD_IOMMU: [u64; 3] = [1, 29, 0];
const KMD_FULL: [u64; 3] = [2, 0, 0];
/// Oldest firmware bundles, and the newest that this UMD was tested with.
const FIRMWARE_WORMHOLE: [u64; 3] = [18, 3, 0];
const FIRMWARE_BLACKHOLE: [u64; 3] = [18, 5, 0];
const FIRMWARE_TESTED: [u64; 3] = [19, 4, 0];

const HUGEPAGES: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages";

/// Checks for a board (`n300`), or of what is present when none is named.
pub(super) fn checks(host: &Host, wanted: Option<&str>) -> Vec<Check> {
    let devices: Vec<String> = host
        .list("/dev/tenstorrent")
        .into_iter()
        .filter(|name| !name.is_empty() && name.bytes().all(|c| c.is_ascii_digit()))
        .collect();
    let version = host.read("/sys/module/tenstorrent/version");
    if wanted.is_none() && devices.is_empty() && version.is_none() {
        return vec![Check::ok("Tenstorrent", "no device, and none is asked for")];
    }
    let board = wanted.and_then(|name| BOARDS.iter().find(|board| board.name == name));
    let iommu = devices.iter().any(|device| translated(host, device));
    let mut checks =
        vec![driver(version.as_deref(), iommu), present(host, &devices, wanted, board)];
    checks.extend(devices.iter().map(|device| card(host, device, board)));
    if !devices.is_empty() {
        checks.push(huge_pages(host, &devices, iommu));
        checks.push(Check::ok(
            "IOMMU",
            if iommu { "translates the devices' addresses" } else { "off or passed through" },
        ));
    }
    checks
}

/// The first numbers of a version, `19.4.0.0` or `2.5.0-rc1`.
fn version(text: &str) -> Option<[u64; 3]> {
    let mut parts = text.trim_start_matches('v').split(['.', '-', '+', ' ']);
    let mut numbers = [0; 3];
    numbers[0] = parts.next()?.parse().ok()?;
    for number in &mut numbers[1..] {
        *number = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    }
    Some(numbers)
}

fn dotted(version: [u64; 3]) -> String {
    version.map(|number| number.to_string()).join(".")
}

/// Whether the IOMMU translates a device's addresses, as UMD finds out.
fn translated(host: &Host, device: &str) -> bool {
    let path = format!("/sys/class/tenstorrent/tenstorrent!{device}/device/iommu_group/type");
    host.read(path).is_some_and(|kind| kind.starts_with("DMA"))
}

fn driver(found: Option<&str>, iommu: bool) -> Check {
    let (name, update) = ("driver (tt-kmd)", "install a newer tt-kmd (docs/silicon.md)");
    let Some(text) = found else {
        let value = "the module tenstorrent is not loaded";
        return Check::error(name, value, "install tt-kmd, then sudo modprobe tenstorrent");
    };
    match version(text) {
        None => Check::warning(name, format!("version '{text}' cannot be read"), update),
        Some(version) if iommu && version < KMD_IOMMU => Check::error(
            name,
            format!("{text}; with an IOMMU at least {} is needed", dotted(KMD_IOMMU)),
            update,
        ),
        Some(version) if version < KMD_FULL => Check::warning(
            name,
            format!("{text}, older than {}: huge pages and IOMMU are limited", dotted(KMD_FULL)),
            update,
        ),
        Some(_) => Check::ok(name, text),
    }
}

fn present(host: &Host, devices: &[String], wanted: Option<&str>, board: Option<&Board>) -> Check {
    let name = "/dev/tenstorrent";
    let found = match devices {
        [] => "no device".to_owned(),
        devices => format!("device {}", devices.join(", ")),
    };
    if devices.is_empty() {
        let remedy = "look for the card with lspci -d 1e52: and for the driver's words with \
            dmesg | grep tenstorrent; in a container pass --device /dev/tenstorrent";
        return Check::error(name, found, remedy);
    }
    let closed: Vec<&str> = devices
        .iter()
        .filter(|device| !host.may_use(format!("{name}/{device}")))
        .map(String::as_str)
        .collect();
    if !closed.is_empty() {
        let value =
            format!("{found}; not readable and writable by this user: {}", closed.join(", "));
        let remedy = "tt-kmd's udev rule sets mode 0666: reinstall its package, or sudo chmod \
            a+rw the device file until the next start";
        return Check::error(name, value, remedy);
    }
    // UMD opens the devices of this list only.
    let visible = host.variable("TT_VISIBLE_DEVICES");
    let visible_count = visible.map_or(devices.len(), |list| {
        list.split(',').filter(|id| devices.iter().any(|device| device == id.trim())).count()
    });
    let value = match visible {
        Some(list) => format!("{found}; TT_VISIBLE_DEVICES={list}"),
        None => found,
    };
    match (wanted, board) {
        (Some(wanted), None) => Check::warning(
            name,
            format!("{value}; it is not known how many tt:{wanted} has"),
            "tt-smi lists the boards",
        ),
        (Some(wanted), Some(board)) if visible_count < board.devices => Check::error(
            name,
            format!("{value}; tt:{wanted} needs {}", board.devices),
            "name the board that is there, or look for the others with lspci -d 1e52:",
        ),
        _ => Check::ok(name, value),
    }
}

/// What the driver shows of a device; `None` where it or the firmware does not.
fn attribute(host: &Host, device: &str, name: &str) -> Option<String> {
    let text = host.read(format!("/sys/class/tenstorrent/tenstorrent!{device}/{name}"));
    text.filter(|text| !text.is_empty())
}

/// Type and firmware of a card.
fn card(host: &Host, device: &str, board: Option<&Board>) -> Check {
    let name = format!("card {device}");
    let (kind, firmware) =
        (attribute(host, device, "tt_card_type"), attribute(host, device, "tt_fw_bundle_ver"));
    let (Some(kind), Some(firmware)) = (kind, firmware) else {
        let remedy = "this driver or firmware does not show them in /sys; tt-smi -ls does";
        return Check::warning(name, "type and firmware are not known", remedy);
    };
    let value = format!("{kind}, firmware {firmware}");
    if let Some(board) = board
        && !board.cards.iter().any(|card| kind.to_ascii_lowercase().starts_with(card))
    {
        let remedy = format!("tt:{} needs {}", board.name, board.cards.join(" or "));
        return Check::error(name, value, remedy);
    }
    let blackhole = board.map_or(kind.starts_with('p'), |board| board.blackhole);
    let oldest = if blackhole { FIRMWARE_BLACKHOLE } else { FIRMWARE_WORMHOLE };
    match version(&firmware) {
        None => Check::warning(name, value, "the firmware's version cannot be read; see tt-smi"),
        Some(version) if version < oldest => Check::error(
            name,
            format!("{value}, older than {}", dotted(oldest)),
            "TT-NN refuses it: flash a newer bundle with tt-flash",
        ),
        Some(version) if FIRMWARE_TESTED < version => Check::warning(
            name,
            format!("{value}, newer than {}", dotted(FIRMWARE_TESTED)),
            "the supported tt-metal was not tested with it; if chips hang, flash an older bundle",
        ),
        Some(_) => Check::ok(name, value),
    }
}

fn huge_pages(host: &Host, devices: &[String], iommu: bool) -> Check {
    let name = "1 GiB huge pages";
    let remedy = "install tenstorrent-tools and start its service: sudo systemctl enable --now \
        tenstorrent-hugepages.service 'dev-hugepages\\x2d1G.mount', then restart the machine";
    // The driver library opens a page for each chip that is reached through a device, also where
    // a mesh of fewer is asked for. Of the second chip of an N300 there is no device.
    let chips = |device: &String| match attribute(host, device, "tt_card_type") {
        Some(kind) if kind.to_ascii_lowercase().starts_with("n300") => 2,
        _ => 1,
    };
    let needed: u64 = devices.iter().map(chips).sum();
    let pages = host.number(HUGEPAGES).unwrap_or(0);
    let mounts = host.read("/proc/mounts").unwrap_or_default();
    let mounted = mounts.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (place, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let of_1g = options.split(',').any(|o| o == "pagesize=1024M" || o == "pagesize=1G");
        (kind == "hugetlbfs" && of_1g).then(|| place.to_owned())
    });
    let value = format!("{pages}, {needed} needed");
    if iommu {
        return Check::ok(name, format!("{pages}; with the IOMMU none are needed"));
    }
    match mounted {
        _ if pages == 0 => Check::error(name, value, remedy),
        None => Check::error(name, format!("{value}, but no hugetlbfs of that size"), remedy),
        Some(place) if pages < needed => {
            Check::warning(name, format!("{value}, mounted at {place}"), remedy)
        }
        Some(place) => Check::ok(name, format!("{value}, mounted at {place}")),
    }
}
